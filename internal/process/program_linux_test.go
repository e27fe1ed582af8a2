package process_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/process"
	"github.com/dayfly-run/dayfly/machine"
)

// hang makes the test binary start the program of that name many times at once, and another one when it is told to.
const hang = "DAYFLY_TEST_HANG"

// startHanging says "ran" when the other program has run, and "all" when the many have too.
func startHanging(path string) int {
	const many = 4 // more than the threads that start processes, and than the processors of a small computer
	failed := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	host, err := process.NewHost(&process.Options{Prefix: os.Getenv("DAYFLY_TEST_PREFIX"), DisableCgroups: true})
	if err != nil {
		return failed(err)
	}
	group, err := host.Group("one", machine.Size{})
	if err != nil {
		return failed(err)
	}
	run := func(path string) error {
		p, err := group.Start(&process.Command{Argv: []string{path}, Env: environment(), Dir: filepath.Dir(path)})
		if err != nil {
			return err
		}
		if exit, _ := p.Exit(); !exit.OK() {
			return fmt.Errorf("got %+v, want success", exit)
		}
		return nil
	}
	ends := make(chan error, many)
	for range many {
		go func() { ends <- run(path) }()
	}
	if _, err := fmt.Scanln(); err != nil {
		return failed(err)
	}
	if err := run("/bin/true"); err != nil {
		return failed(err)
	}
	fmt.Println("ran")
	for range many {
		if err := <-ends; err != nil {
			return failed(err)
		}
	}
	fmt.Println("all")
	return 0
}

// TestAProgramWhoseFileSystemHangsHoldsUpNobody lets the kernel ask before anybody may open the program, and answers
// late, which is as if it were on a file system that does not answer. What starts it is another process, as one that
// executes such a program itself stands still.
func TestAProgramWhoseFileSystemHangsHoldsUpNobody(t *testing.T) {
	dir := t.TempDir()
	interpreter, script := filepath.Join(dir, "interpreter"), filepath.Join(dir, "script")
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string][]byte{interpreter: shell, script: []byte("#! " + interpreter + " -e\nexit 0\n")} {
		if err := os.WriteFile(file, text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, hanging := range map[string]string{"TheProgram": script, "ItsInterpreter": interpreter} {
		t.Run(name, func(t *testing.T) {
			gate := closeGate(t, hanging)
			starter := exec.Command(os.Args[0])
			starter.Env = append(environment(), hang+"="+script, "DAYFLY_TEST_PREFIX="+newPrefix())
			starter.Stderr = os.Stderr
			in, err := starter.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := starter.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := starter.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				_ = starter.Process.Kill()
				_ = starter.Wait()
			}()
			deadline := time.AfterFunc(10*time.Second, func() { _ = starter.Process.Kill() }) // which ends its output
			defer deadline.Stop()

			first, err := nextOpening(gate)
			if err != nil {
				t.Fatalf("got %v, want somebody to open %s", err, hanging)
			}
			fmt.Fprintln(in)
			lines := bufio.NewScanner(out)
			if !lines.Scan() || lines.Text() != "ran" {
				t.Fatal("another program did not run within 10 s, want one that hangs to hold up none")
			}
			go func() {
				for opening := first; ; {
					if permit(gate, opening) != nil {
						return
					}
					if opening, err = nextOpening(gate); err != nil {
						return
					}
				}
			}()
			if !lines.Scan() || lines.Text() != "all" {
				t.Error("the programs did not run within 10 s although they hang no more")
			}
		})
	}
}

// closeGate makes everybody who opens a file wait for permit, until the test ends.
func closeGate(t *testing.T, file string) *os.File {
	t.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		t.Skipf("this user cannot make an opening wait: %v", err)
	}
	gate := os.NewFile(uintptr(fd), "gate")
	t.Cleanup(func() { gate.Close() })
	if err := gate.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, file); err != nil {
		t.Skipf("this user cannot make an opening wait: %v", err)
	}
	return gate
}

// nextOpening waits until somebody opens the file, and returns the descriptor that stands for it.
func nextOpening(gate *os.File) (descriptor int32, err error) {
	event := make([]byte, 24) // room for one
	if _, err := gate.Read(event); err != nil {
		return 0, err
	}
	return int32(binary.NativeEndian.Uint32(event[16:])), nil
}

func permit(gate *os.File, descriptor int32) error {
	defer unix.Close(int(descriptor))
	answer := binary.NativeEndian.AppendUint32(nil, uint32(descriptor))
	_, err := gate.Write(binary.NativeEndian.AppendUint32(answer, unix.FAN_ALLOW))
	return err
}

func TestAPipeIsNoProgramAndNobodyWaitsForItsWriter(t *testing.T) {
	t.Parallel()
	group := newGroup(t, newHost(t, false), machine.Size{})
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o700); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!"+pipe+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{pipe, script} {
		if _, err := group.Start(&process.Command{Argv: []string{program}, Env: environment(), Dir: "/"}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: got %v, want one that cannot be executed", program, err)
		}
	}
}
