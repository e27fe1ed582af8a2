// Command sharer is a program for tests: each line that it reads makes it call a function over a fleet of containers, which says where
// it has run.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/dayfly-run/dayfly"
)

var where = dayfly.Func("where", func(context.Context, struct{}) (string, error) {
	host, err := os.Hostname()
	return fmt.Sprintf("%s %d", host, dayfly.Parent().PID), err
})

func main() {
	dayfly.Main()
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(url, token string) error {
	client, err := dayfly.NewClient(url, &dayfly.ClientOptions{Token: token})
	if err != nil {
		return err
	}
	fleet := client.Fleet("containers", "docker", &dayfly.FleetOptions{Max: 1, Idle: 200 * time.Millisecond})
	pool, err := dayfly.NewPool(fleet, nil)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		found, err := where.Call(context.Background(), pool, struct{}{})
		if err != nil {
			return err
		}
		fmt.Println(found)
	}
	return pool.Close()
}
