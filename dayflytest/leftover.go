package dayflytest

import (
	"bytes"
	"crypto/rand"
	"runtime/pprof"
	"strings"
	"time"
)

// labelKey is the key of the label by which the goroutines of a test's runners are found.
const labelKey = "dayflytest"

// newLabel returns a label that no other runners have.
func newLabel() string { return rand.Text() }

// patience is how long goroutines may take to end after the pool is closed.
const patience = 2 * time.Second

// leftovers waits until no goroutine has the label, and returns where those are that still have it after a while, or "".
func leftovers(label string) string {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left := labeledStacks(label)
		if left == "" || time.Now().After(deadline) {
			return left
		}
		timer := time.NewTimer(pause)
		<-timer.C
	}
}

// labeledStacks returns where the goroutines with the label are.
func labeledStacks(label string) string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 1); err != nil {
		return "" // a buffer takes everything
	}
	var found []string
	for stack := range strings.SplitSeq(all.String(), "\n\n") {
		if strings.Contains(stack, label) {
			found = append(found, stack)
		}
	}
	return strings.Join(found, "\n\n")
}
