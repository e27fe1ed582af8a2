//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Enabled reports whether this build has failpoints.
const Enabled = true

// points are the programs of the environment. They are read once, by the first Hit.
var points = sync.OnceValue(func() map[string]*point {
	parsed, err := parse(os.Getenv(Variable))
	if err != nil {
		panic(err)
	}
	return parsed
})

// Hit passes the named point: it does what the point's program says next. The error of an "error" step is
// fault.Unavailable. It is safe for concurrent use.
func Hit(name string) error {
	p := points()[name]
	if p == nil {
		return nil
	}
	switch s := p.next(); s.action {
	case fail:
		return fmt.Errorf("failpoint %s: %w", name, fault.Unavailable)
	case crash:
		panic("failpoint " + name)
	case kill:
		// Nothing may happen between the point and the end, so this goroutine waits for the signal to arrive.
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case suspend:
		time.Sleep(s.delay)
	}
	return nil
}
