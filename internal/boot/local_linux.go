package boot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/local"
)

// Local returns a provider of machines on this computer that needs nothing but this program: its machines are held by the
// program itself, started once more, which [Help] takes care of. All processes of this user that run the program from
// the same file share them. log is told what nobody asked for; nil discards.
// Their state is in the user's cache, because nothing in it is worth keeping but what runs, or else in the directory for
// temporary files.
//
// In one process all that is asked for the same state is one provider, with one connection to who holds the machines: it is never
// closed, and a program that makes a pool for each piece of work has no more open for it in the end.
//
// fault.Invalid: the program has not called Help first. fault.Unavailable: there is no directory to keep state in.
func Local(log *slog.Logger) (*local.Provider, error) {
	temporary := filepath.Join(os.TempDir(), "dayfly-"+strconv.Itoa(os.Getuid()))
	places := []string{temporary}
	if cache, err := os.UserCacheDir(); err == nil {
		places = []string{filepath.Join(cache, "dayfly", "calls"), temporary}
	}
	dir, err := localDir(places)
	if err != nil {
		return nil, err
	}
	return locals().provider(dir, log)
}

// providers are those that [Local] has returned, by their directory.
type providers struct {
	mu sync.Mutex
	in map[string]*local.Provider // guarded by mu
}

// locals returns those of this process. What they have open is the process's, whoever asks for it.
var locals = sync.OnceValue(func() *providers { return &providers{in: map[string]*local.Provider{}} })

func (s *providers) provider(dir string, log *slog.Logger) (*local.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.in[dir]; p != nil {
		return p, nil
	}
	p, err := newLocal(dir, log)
	if err == nil {
		s.in[dir] = p
	}
	return p, err
}

// localDir returns the directory for the state, in the first of the places that can be used.
func localDir(places []string) (string, error) {
	if len(os.Args) > 1 && os.Args[1] == machine.Helper {
		return "", fault.Say(fault.Invalid, "This process was started to hold the machines of another one, and does something else: "+
			"call dayfly.Main() first of all in main, before anything is opened, served or read.")
	}
	dir, err := stateDir(places)
	if err != nil {
		return "", fmt.Errorf("boot: %w", err)
	}
	return dir, nil
}

func newLocal(dir string, log *slog.Logger) (*local.Provider, error) {
	return local.New(local.Options{Dir: dir, Supervisor: []string{machine.ThisProgram, machine.Helper, "supervise"}, Logger: log})
}

// programFile is the file in a state directory that names the program whose it is.
const programFile = "program"

// stateDir returns the directory of this program, which it makes in the first of the places that can be used.
func stateDir(places []string) (string, error) {
	program, err := os.Executable()
	if err != nil {
		return "", fault.Say(fault.Unavailable, "It cannot be found out which program runs here: %v.", err)
	}
	program = strings.TrimSuffix(program, " (deleted)")
	var failed []string
	for _, parent := range places {
		dir, err := stateDirIn(parent, program)
		if err == nil {
			sweepStateDirs(parent, dir)
			return dir, nil
		}
		failed = append(failed, err.Error())
	}
	return "", fault.Say(fault.Unavailable, "There is no directory to keep the machines of this program in: %s. Set HOME or TMPDIR to a directory that "+
		"this user can write to.", strings.Join(failed, "; "))
}

func stateDirIn(parent, program string) (string, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	info, err := os.Lstat(parent)
	if err != nil {
		return "", err
	}
	// Whoever may write to it decides what this user runs.
	if stat, ok := info.Sys().(*syscall.Stat_t); !info.IsDir() || !ok || int(stat.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s is not a directory of this user alone", parent)
	}
	sum := sha256.Sum256([]byte(program))
	dir := filepath.Join(parent, shortName(filepath.Base(program), 32)+"-"+hex.EncodeToString(sum[:6]))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	file := filepath.Join(dir, programFile)
	if known, err := os.ReadFile(file); err == nil && string(known) == program {
		return dir, nil
	}
	return dir, os.WriteFile(file, []byte(program), 0o600)
}

const (
	// maxSwept is how many directories are removed at once.
	maxSwept = 2
	// abandonedAfter is how long a directory stays after its program was last started from a file that is gone.
	abandonedAfter = time.Hour
)

// sweepStateDirs removes directories of programs that do not exist any more, as go run and go test leave them.
func sweepStateDirs(parent, own string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return // whoever needs it says so
	}
	swept := 0
	for _, entry := range entries {
		dir := filepath.Join(parent, entry.Name())
		file := filepath.Join(dir, programFile)
		info, err := os.Stat(file)
		if dir == own || err != nil || time.Since(info.ModTime()) < abandonedAfter {
			continue
		}
		program, err := os.ReadFile(file)
		if err != nil || !filepath.IsAbs(string(program)) {
			continue
		}
		if _, err := os.Lstat(string(program)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if local.Discard(context.Background(), dir) == nil {
			if swept++; swept == maxSwept {
				return
			}
		}
	}
}
