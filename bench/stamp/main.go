// Command stamp writes down when it began: the reading of the system's monotonic clock, in nanoseconds, into the file
// it is given. It is the "user code" whose start the benchmarks measure, and reads the clock as the first thing it does.
package main

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	if err == nil && len(os.Args) != 2 {
		err = fmt.Errorf("want one file name, got %d arguments", len(os.Args)-1)
	}
	if err == nil {
		err = os.WriteFile(os.Args[1], strconv.AppendInt(nil, now.Nano(), 10), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stamp:", err)
		os.Exit(1)
	}
}
