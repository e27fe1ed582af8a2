package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// settle makes the process run on the processor that the environment names, from its start: it starts once more there.
func settle() error {
	cpu, err := strconv.Atoi(os.Getenv(cpuVariable))
	if err != nil {
		return nil // anywhere
	}
	var set unix.CPUSet
	set.Set(cpu)
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, _ := strconv.Atoi(filepath.Base(task)) // the kernel names them by numbers
		if err := unix.SchedSetaffinity(id, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("running on processor %d: %w", cpu, err)
		}
	}
	if err := os.Unsetenv(cpuVariable); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
