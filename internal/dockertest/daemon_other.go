//go:build !linux

package dockertest

import (
	"errors"
	"os/exec"
)

// spawn refuses: a container engine needs Linux. With DAYFLY_TEST_DOCKER_HOST set, tests use one that is elsewhere.
func spawn(*exec.Cmd) (*daemon, error) {
	return nil, errors.New("a container engine runs on Linux alone; name one in DAYFLY_TEST_DOCKER_HOST")
}

// unmount has nothing to do where no engine runs.
func (e *Engine) unmount() error { return nil }
