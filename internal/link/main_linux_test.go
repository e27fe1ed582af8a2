package link_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

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
		runner, err := dialed(argument)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		return runner.Serve(func(frame []byte) { _ = runner.Post(frame) })
	case "collector": // puts a MiB together from what it hears, and then says a byte
		runner, err := dialed(argument)
		if err != nil {
			return err
		}
		fmt.Println("ready")
		var whole []byte
		return runner.Serve(func(frame []byte) {
			if whole == nil && len(frame) == 1<<20 {
				whole = frame
			} else {
				whole = append(whole, frame...)
			}
			if len(whole) >= 1<<20 {
				whole = nil
				_ = runner.Post([]byte{0})
			}
		})
	case "build": // says its build
		this, err := link.ThisProcess()
		fmt.Println("ready", this.Build)
		return err
	case "thrifty": // looks at its own descriptors before, while and after it has links
		fmt.Println("ready", beThrifty(argument))
		return nil
	case "leaky": // starts a process that holds its connection
		return leak(argument)
	case "parent": // expects a runner on one way, and then says everything back to it
		return beParent(strings.Fields(argument))
	case "crowd": // is a runner for each line that it reads
		fmt.Println("ready")
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			runner, err := dialed(lines.Text())
			if err != nil {
				return err
			}
			go func() { _ = runner.Serve(func([]byte) {}) }()
		}
		return lines.Err()
	case "tcp", "unix": // says everything back that it hears, without a link
		return echo(role, argument)
	}
	return fmt.Errorf("no role %q", role)
}

func dialed(word string) (*link.Link, error) {
	i, err := link.ParseInvitation(word)
	if err != nil {
		return nil, err
	}
	return link.Dial(context.Background(), i, hello())
}

// leak is a runner whose child holds its socket open and outlives it. It says the child's process id.
func leak(word string) error {
	runner, err := dialed(word)
	if err != nil {
		return err
	}
	sleeper := exec.Command("sleep", "1000")
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		fd, _ := strconv.Atoi(e.Name())
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); strings.HasPrefix(to, "socket:") {
			other, err := unix.Dup(fd)
			if err != nil {
				return err
			}
			sleeper.ExtraFiles = append(sleeper.ExtraFiles, os.NewFile(uintptr(other), "socket"))
		}
	}
	if err := sleeper.Start(); err != nil {
		return err
	}
	fmt.Println("ready", sleeper.Process.Pid, len(sleeper.ExtraFiles))
	return runner.Serve(func([]byte) {})
}

// beThrifty makes and closes links and says what is wrong with the process's descriptors.
func beThrifty(dir string) string {
	home, err := link.NewHome(hello(), &link.HomeOptions{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		return err.Error()
	}
	go func() { _ = home.Run(context.Background()) }()
	before := len(descriptors())
	for n := range 40 {
		guest, err := home.Expect(strconv.Itoa(n))
		if err != nil {
			return err.Error()
		}
		i := guest.Invitation()
		if n%2 == 0 {
			slices.Reverse(i.Addresses)
		}
		runner, err := dialed(i.Encode())
		if err != nil {
			return err.Error()
		}
		parent, err := guest.Wait(context.Background())
		if err != nil {
			return err.Error()
		}
		for what, flags := range descriptors() {
			if strings.Contains(what, "socket:") && flags&unix.O_CLOEXEC == 0 {
				return what + " is left to children"
			}
		}
		go func() { _ = parent.Serve(func([]byte) {}) }()
		go func() { _ = runner.Serve(func([]byte) {}) }()
		runner.Close(nil)
		<-parent.Done()
	}
	for limit := time.Now().Add(10 * time.Second); len(descriptors()) > before; {
		if time.Now().After(limit) {
			return fmt.Sprintf("there were %d descriptors and are %v", before, descriptors())
		}
		<-time.After(10 * time.Millisecond)
	}
	return ""
}

// descriptors returns what this process has open, each with its flags.
func descriptors() map[string]int64 {
	found := map[string]int64{}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		what, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil {
			continue // that of the directory itself
		}
		info, _ := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		_, flags, _ := strings.Cut(string(info), "flags:")
		flags, _, _ = strings.Cut(strings.TrimSpace(flags), "\n")
		found[e.Name()+" "+what], _ = strconv.ParseInt(flags, 8, 64)
	}
	return found
}

// beParent has a home in a directory, with a silence and for one way. It says the invitation, then when the runner is
// there, and for each line that it reads what the runner says back.
func beParent(arguments []string) error {
	silence, err := time.ParseDuration(arguments[1])
	if err != nil {
		return err
	}
	home, err := link.NewHome(hello(), &link.HomeOptions{Dir: arguments[0], Listen: "127.0.0.1:0", Silence: silence})
	if err != nil {
		return err
	}
	go func() { _ = home.Run(context.Background()) }()
	guest, err := home.Expect("r")
	if err != nil {
		return err
	}
	i := guest.Invitation()
	i.Addresses = slices.DeleteFunc(i.Addresses, func(a string) bool { return !strings.HasPrefix(a, arguments[2]) })
	fmt.Println("ready", i.Encode())
	parent, err := guest.Wait(context.Background())
	if err != nil {
		return err
	}
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if err := parent.Send(context.Background(), lines.Bytes()); err != nil {
				fmt.Println(err)
			}
		}
	}()
	return parent.Serve(func(frame []byte) { fmt.Println(string(frame)) })
}

func echo(network, address string) error {
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	fmt.Println("ready", l.Addr())
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

// child is another process of this test.
type child struct {
	*exec.Cmd
	said *bufio.Reader
	in   io.Writer
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
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
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
	started := &child{c, bufio.NewReader(out), in}
	line, err := started.said.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
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
