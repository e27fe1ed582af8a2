package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// workshop is the directory that everything happens in, and the programs that are measured.
type workshop struct {
	dir    string // absolute, without symbolic links: processes are recognized by it
	dayfly string // the program, inside dir
	agent  string // inside dir
	self   string // this program, inside dir
	places int    // how many directories have been handed out
}

// newWorkshop makes the directory. The caller calls clear, in any case.
func newWorkshop() (*workshop, error) {
	dir, err := os.MkdirTemp("", "dayfly-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a directory to work in: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("making a directory to work in: %w", err)
	}
	return &workshop{dir: dir}, nil
}

// clear ends every process that has come out of the workshop and removes the directory.
func (w *workshop) clear() error {
	left := w.end(func() []int { return processesBelow(w.dir) })
	if err := os.RemoveAll(w.dir); err != nil || len(left) > 0 {
		return fmt.Errorf("%s could not be cleared, processes left: %v: %w", w.dir, left, err)
	}
	return nil
}

// end ends the processes that list returns, until it returns none: one of them may have been starting another. Each is
// told once, because a second signal would end it at once, without its profile. They may end in order for a moment,
// and are killed then. It returns those that did not end.
func (w *workshop) end(list func() []int) (left []int) {
	const grace, limit = time.Second, 20 * time.Second
	told := map[int]bool{}
	for began := time.Now(); time.Since(began) < limit; time.Sleep(10 * time.Millisecond) {
		if left = list(); len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			switch {
			case time.Since(began) > grace:
				_ = syscall.Kill(pid, syscall.SIGKILL) // one that has just ended by itself is what we want
			case !told[pid]:
				told[pid] = true
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	}
	return left
}

// place returns a new directory for one purpose.
func (w *workshop) place(purpose string) (string, error) {
	w.places++
	dir := filepath.Join(w.dir, fmt.Sprintf("%02d-%s", w.places, purpose))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a directory to work in: %w", err)
	}
	return dir, nil
}

// equip builds the programs, or takes the dayfly that is given, and copies them into the workshop. The copies are what
// runs: a process is then ours exactly if its program is in the workshop, whatever else runs on this computer.
func (w *workshop) equip(ctx context.Context, o *options) error {
	w.dayfly, w.agent = filepath.Join(w.dir, "dayfly"), filepath.Join(w.dir, "dayfly-agent")
	w.self = filepath.Join(w.dir, "bench")
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := install(self, w.self); err != nil {
		return err
	}
	if o.profile != "" {
		// Without an agent beside it, the server uses its own program for that, and so the agent is profiled too.
		w.agent = filepath.Join(w.dir, "unused", "dayfly-agent")
		profiles, err := filepath.Abs(o.profile)
		return errors.Join(err, os.MkdirAll(profiles, 0o755), os.WriteFile(filepath.Join(w.dir, "profiles"), []byte(profiles), 0o600),
			build(ctx, w.dayfly, "./bench/profiled"),
			build(ctx, w.agent, "./cmd/dayfly-agent"))
	}
	source := o.dayfly
	if source == "" {
		source = filepath.Join("bin", "dayfly")
		for _, name := range []string{"dayfly", "dayfly-agent"} {
			if err := build(ctx, filepath.Join("bin", name), "./cmd/"+name); err != nil {
				return err
			}
		}
	}
	return errors.Join(install(source, w.dayfly), install(filepath.Join(filepath.Dir(source), "dayfly-agent"), w.agent))
}

// build compiles a program of this module as a release is compiled.
func build(ctx context.Context, file, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// install copies a program.
func install(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("taking a program into the workshop: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return fmt.Errorf("taking a program into the workshop: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		return errors.Join(fmt.Errorf("taking %s into the workshop: %w", from, err), out.Close())
	}
	return out.Close()
}

// environ is what the programs are given: a home of their own, and no configuration.
func (w *workshop) environ(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_STATE_HOME=" + home, "LANG=C.UTF-8", "TZ=UTC"}
}
