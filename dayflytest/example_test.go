package dayflytest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/dayflytest"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// Shout is a function of the program under test.
var Shout = dayfly.Func("dayflytest/shout", func(_ context.Context, text string) (string, error) {
	return strings.ToUpper(text), nil
})

// insist is what is tested here: it calls again when the runner was lost.
func insist(ctx context.Context, pool *dayfly.Pool, text string) (loud string, err error) {
	for range 3 {
		if loud, err = Shout.Call(ctx, pool, text); !errors.Is(err, dayfly.ErrRunnerLost) {
			return loud, err
		}
	}
	return "", err
}

// A test of a program that calls its functions elsewhere: the first runner is killed when it has run the function.
func Example() {
	t := &recorder{} // the *testing.T of a test
	defer t.end()

	pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Max: 2})
	lost := runners.KillAfter("dayflytest/shout").Times(1)

	loud, err := insist(context.Background(), pool, "hello")
	fmt.Println(loud, err)
	fmt.Println("runners lost:", lost.Used())
	// Output:
	// HELLO <nil>
	// runners lost: 1
}

// What a program does that has no room for its runners.
func ExampleRunners_RefuseBoots() {
	t := &recorder{}
	defer t.end()

	pool, runners := dayflytest.NewPool(t, nil)
	runners.RefuseBoots(fault.Denied)

	_, err := Shout.Call(context.Background(), pool, "hello")
	fmt.Println("denied:", errors.Is(err, fault.Denied))

	runners.Heal()
	// Output: denied: true
}

// service is a program that is given its provider: client.Fleet("service", "docker", nil) in production, and another one in its tests.
type service struct{ pool *dayfly.Pool }

func newService(runners machine.Provider) (*service, error) {
	pool, err := dayfly.NewPool(runners, &dayfly.PoolOptions{Name: "service", Logger: slog.New(slog.DiscardHandler)})
	return &service{pool}, err
}

func (s *service) close() error { return s.pool.Close() }

// A program that shares warm runners is tested without the server that keeps them. Here the server is away when it is asked first, and then
// wants a runner back which has just served a call.
func ExampleRunners_Provider_fleet() {
	t := &recorder{}
	defer t.end()

	runners := dayflytest.New(t)
	away := runners.RefuseBoots(fault.Unavailable).Times(1)
	s, err := newService(runners.Provider())
	if err != nil {
		t.Fatalf("%v", err)
	}

	loud, err := insist(context.Background(), s.pool, "hello")
	fmt.Println(loud, err, away.Used())

	first := runners.Running()[0]
	fmt.Println("asked back:", runners.TellToEnd(first))
	loud, err = insist(context.Background(), s.pool, "again")
	fmt.Println(loud, err)

	fmt.Println(s.close())
	// Output:
	// HELLO <nil> 1
	// asked back: true
	// AGAIN <nil>
	// <nil>
}

// In a bubble of testing/synctest an hour takes no time, and a runner goes when it has been idle for that long.
func ExampleNewPool_clock() {
	testRunnersGo := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			pool, runners := dayflytest.NewPool(t, &dayfly.PoolOptions{Idle: time.Hour})
			if _, err := Shout.Call(t.Context(), pool, "hello"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Hour)
			if left := runners.Running(); len(left) > 0 {
				t.Errorf("got the runners %v, want none", left)
			}
		})
	}
	fmt.Println("passed:", passes(testRunnersGo))
	// Output: passed: true
}

// passes runs a test, and keeps what -v prints of it out of the output.
func passes(test func(t *testing.T)) bool {
	out := os.Stdout
	os.Stdout = os.Stderr
	defer func() { os.Stdout = out }()
	return testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "TestTheExample", F: test}})
}
