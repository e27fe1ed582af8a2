package api_test

import (
	"bytes"
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/store"
)

type (
	jobRow     = store.Job
	attemptRow = store.Attempt
)

// waitFor waits until a condition holds.
func waitFor(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		<-tick.C
	}
}

// secret adds a token with these scopes to the store and returns it.
func (g *rig) secret(name string, scopes ...string) string {
	g.t.Helper()
	secret := "dfo_" + name + "-0123456789"
	hash := sha256.Sum256([]byte(secret))
	err := g.tokens.AddToken(g.t.Context(), &store.Token{ID: "tok_" + name, Name: name, Hash: hash[:], Scopes: scopes, CreatedAt: time.Now()})
	if err != nil {
		g.t.Fatal(err)
	}
	return secret
}

// lockedBuffer is a buffer that several goroutines may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
