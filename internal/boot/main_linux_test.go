package boot_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/boot"
	"github.com/dayfly-run/dayfly/internal/dockertest"
	"github.com/dayfly-run/dayfly/internal/link"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/docker"
)

// parent is a process that boots three runners and would stay for ever. It prints what say says of each.
func parent(open func() (machine.Provider, error), say func(*boot.Runner) any) int {
	err := func() error {
		p, err := open()
		if err != nil {
			return err
		}
		hello, err := link.ThisProcess()
		if err != nil {
			return err
		}
		pool := os.Getenv("POOL")
		b, err := boot.New(p, pool, hello, &boot.Options{Spec: machine.Spec{Env: map[string]string{roleVariable: "runner"}}})
		if err != nil {
			return err
		}
		go func() { _ = b.Run(context.Background()) }()
		var said []any
		for i := range 3 {
			r, err := b.Boot(context.Background(), fmt.Sprintf("%s-%d", pool, i))
			if err != nil {
				return err
			}
			go func() { _ = r.Link().Serve(func([]byte) {}) }()
			said = append(said, say(r))
		}
		fmt.Println(said...)
		return nil
	}()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return stay()
}

// stay waits until this process is killed, as a server does that nobody stops.
func stay() int {
	never := make(chan os.Signal, 1)
	signal.Notify(never, syscall.SIGUSR2)
	<-never
	return 0
}

// runner is what a runner's main is: it dials home, does what it is told in frames, and ends with the link.
func runner(build string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	invitation, err := link.ParseInvitation(os.Getenv(boot.ParentVariable))
	if err != nil {
		return fail(err)
	}
	hello, err := link.ThisProcess()
	if err != nil {
		return fail(err)
	}
	if build != "" {
		hello.Build = build
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l, err := link.Dial(ctx, invitation, hello)
	if err != nil {
		return fail(err)
	}
	err = l.Serve(func(frame []byte) {
		switch string(frame) {
		case "eat":
			go eat()
		case "crash":
			fmt.Fprintln(os.Stderr, "fatal error: all is lost")
			os.Exit(3)
		default:
			if err := l.Post(frame); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	})
	if end, ok := errors.AsType[*link.End](err); ok && !end.Lost {
		return 0
	}
	return fail(err)
}

// eat takes all the memory there is.
func eat() {
	last := []byte{}
	for {
		last = bytes.Repeat([]byte{1}, 2*len(last)+1<<20)
		runtime.KeepAlive(last)
	}
}

// roleVariable says what this test binary is in a machine.
const roleVariable = "BOOT_TEST_ROLE"

// TestMain lets the test binary be its own helper and its own runner, as a user's program is.
func TestMain(m *testing.M) {
	if status, helped := boot.Help(os.Args); helped {
		os.Exit(status)
	}
	if role, ok := roles()[os.Getenv(roleVariable)]; ok {
		os.Exit(role(os.Args[1:]))
	}
	os.Exit(dockertest.Main(m))
}

func roles() map[string]func(args []string) int {
	return map[string]func(args []string) int{
		"parent": func([]string) int {
			return parent(func() (machine.Provider, error) { return boot.LocalIn([]string{os.Getenv("PLACE")}, nil) },
				func(r *boot.Runner) any { return r.Link().Peer().PID })
		},
		"container parent": func([]string) int {
			return parent(func() (machine.Provider, error) {
				return docker.New(docker.Program{}, &docker.Options{Host: os.Getenv("DAYFLY_TEST_DOCKER_HOST")}), nil
			}, func(r *boot.Runner) any { return r.ID() })
		},
		"runner":        func([]string) int { return runner("") },
		"another build": func([]string) int { return runner("another") },
		"panics": func([]string) int {
			fmt.Fprintln(os.Stderr, "reading the configuration")
			panic("there is no configuration")
		},
		"forgets": func([]string) int {
			fmt.Println("serving on :8080")
			return stay()
		},
		"ends": func([]string) int { return 0 },
		"eats": func([]string) int { eat(); return 0 },
		"local": func([]string) int {
			p, err := boot.LocalIn([]string{os.Getenv("PLACE")}, nil)
			if err == nil {
				err = p.Close()
			}
			if err != nil {
				fmt.Println(err)
				return 1
			}
			return 0
		},
		"say": func(args []string) int {
			fmt.Println(strings.Join(args, "|"))
			code, err := strconv.Atoi(os.Getenv("CODE"))
			if err != nil {
				return 70
			}
			return code
		},
	}
}
