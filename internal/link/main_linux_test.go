package link_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/link"
)

// TestMain makes the test's own binary the other process of the tests that need one: a runner or a bare echo.
func TestMain(m *testing.M) {
	role, argument, ok := strings.Cut(os.Getenv("LINK_TEST_ROLE"), " ")
	if !ok {
		os.Exit(m.Run())
	}
	if cpu, err := strconv.Atoi(os.Getenv("LINK_TEST_CPU")); err == nil {
		pin(cpu)
	}
	if err := play(role, argument); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play plays the role of another process. It says "ready" on its standard output when it can be reached.
func play(role, argument string) error {
	switch role {
	case "runner": // says everything back that it hears
		i, err := link.ParseInvitation(argument)
		if err != nil {
			return err
		}
		runner, err := link.Dial(context.Background(), i, hello())
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return runner.Serve(func(frame []byte) { _ = runner.Post(frame) })
	case "collector": // puts a MiB together from what it hears, and then says a byte
		i, err := link.ParseInvitation(argument)
		if err != nil {
			return err
		}
		runner, err := link.Dial(context.Background(), i, hello())
		if err != nil {
			return err
		}
		fmt.Println("ready")
		var whole []byte
		return runner.Serve(func(frame []byte) {
			if len(frame) < 1<<20 && whole == nil {
				whole = make([]byte, 0, 1<<20)
			}
			if len(frame) < 1<<20 {
				whole = append(whole, frame...)
			} else {
				whole = frame
			}
			if len(whole) >= 1<<20 {
				whole = nil
				_ = runner.Post([]byte{0})
			}
		})
	case "tcp", "unix": // says everything back that it hears, without a link
		l, err := net.Listen(role, argument)
		if err != nil {
			return err
		}
		fmt.Println("ready " + l.Addr().String())
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		buffer := make([]byte, 64<<10)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return nil
			}
			if _, err := conn.Write(buffer[:n]); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("no role %q", role)
}

// child is another process of this test.
type child struct {
	*exec.Cmd
	said *bufio.Reader
}

// start starts a process that plays a role, on a processor or with -1 on any, and returns when it is ready and what it
// says then. It is killed when the test ends.
func start(t testing.TB, cpu int, role, argument string) (*child, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), "LINK_TEST_ROLE="+role+" "+argument)
	if cpu >= 0 {
		c.Env = append(c.Env, "LINK_TEST_CPU="+strconv.Itoa(cpu))
	}
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatalf("start %s: %v", role, err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill() // it may have ended
		_ = c.Wait()         // it was killed
	})
	started := &child{c, bufio.NewReader(out)}
	line, err := started.said.ReadString('\n')
	if err != nil && err != io.EOF {
		t.Fatalf("%s: %v", role, err)
	}
	said, ok := strings.CutPrefix(strings.TrimSpace(line), "ready")
	if !ok {
		t.Fatalf("%s said %q, want ready", role, line)
	}
	return started, strings.TrimSpace(said)
}

// pin lets this process run on one processor, or with -1 on any.
func pin(cpu int) {
	var set unix.CPUSet
	if cpu < 0 {
		for i := range 64 {
			set.Set(i)
		}
	} else {
		set.Set(cpu)
	}
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, task := range tasks {
		id, _ := strconv.Atoi(task.Name())
		_ = unix.SchedSetaffinity(id, &set)
	}
}
