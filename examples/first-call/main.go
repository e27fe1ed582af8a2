// Command first-call is the program of docs/calls.md: a search that another process does.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"

	"github.com/dayfly-run/dayfly"
)

// Mine is declared in a variable of the package, so that the runner, which is this same program, knows it too.
var Mine = dayfly.Func("mine", mine)

func mine(ctx context.Context, zeros int) (string, error) {
	for n := 0; ctx.Err() == nil; n++ {
		if sum := fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, n))); sum[:zeros] == "00000000"[:zeros] {
			return fmt.Sprintf("%d has %s", n, sum), nil
		}
	}
	return "", ctx.Err()
}

func main() {
	dayfly.Main() // in a runner this serves calls, and does not return

	pool, err := dayfly.NewPool(dayfly.Local(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	found, err := Mine.Call(context.Background(), pool, 5)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found)
}
