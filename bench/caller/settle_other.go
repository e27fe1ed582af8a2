//go:build !linux

package main

import (
	"errors"
	"os"
)

// settle refuses to measure on a certain processor, which only Linux can be told.
func settle() error {
	if os.Getenv(cpuVariable) != "" {
		return errors.New("only Linux lets a process choose its processor; leave " + cpuVariable + " unset")
	}
	return nil
}
