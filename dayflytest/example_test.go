package dayflytest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/dayflytest"
	"github.com/dayfly-run/dayfly/fault"
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
	ok := testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "TestRunnersGo", F: testRunnersGo}})
	fmt.Println("passed:", ok)
	// Output: passed: true
}
