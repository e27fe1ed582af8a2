package hire

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// The limits of programs, where Options name no others.
const (
	DefaultPrograms     = 64             // how many are kept
	DefaultProgramBytes = 4 << 30        // how large they may be together
	DefaultProgramLife  = 24 * time.Hour // how long one is kept that nobody uses

	maxComing     = 32              // that are on their way at once
	maxComingEach = 8               // of one tenant
	comingLife    = 2 * time.Minute // how long a part is kept that nobody goes on with
)

// programs are files that were uploaded, to be run by machines. Each is named by its digest and is either whole, verified and on the
// disk, or not there. It is safe for concurrent use.
//
// A directory of the digest's name holds one file, under the name that the program has at home, because people see that
// name. The directory's time is when the program was last used.
type programs struct {
	dir       string
	most      int
	mostBytes int64
	life      time.Duration
	// needed reports whether a machine may need the program. It is called with mu held.
	needed func(digest string) bool
	log    *slog.Logger

	mu     sync.Mutex
	whole  map[string]*program  // guarded by mu, by digest
	coming map[sender]*incoming // guarded by mu
}

// program is one that is whole.
type program struct {
	file  string // absolute
	size  int64
	used  time.Time
	users int // calls that go on
}

// sender is a program on its way. Tenants do not send one together, so that nobody can spoil what another sends.
type sender struct{ tenant, digest string }

// open makes the directory and looks at what is in it. What had not come whole is removed.
func (p *programs) open() error {
	p.whole, p.coming = map[string]*program{}, map[sender]*incoming{}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return unkept(err)
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return unkept(err)
	}
	for _, entry := range entries {
		dir := filepath.Join(p.dir, entry.Name())
		if known, err := lookAt(dir); err == nil && isDigest(entry.Name()) {
			p.whole[entry.Name()] = known
		} else if err := os.RemoveAll(dir); err != nil {
			return unkept(err)
		}
	}
	return nil
}

// lookAt returns the program in a directory.
func lookAt(dir string) (*program, error) {
	own, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	if len(files) != 1 || !files[0].Type().IsRegular() {
		return nil, fs.ErrInvalid
	}
	info, err := files[0].Info()
	if err != nil {
		return nil, err
	}
	return &program{file: filepath.Join(dir, info.Name()), size: info.Size(), used: own.ModTime()}, nil
}

// state says how much of a program there is.
func (p *programs) state(tenant, digest string) *wire.ProgramState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.whole[digest]; known != nil {
		p.touch(known)
		return &wire.ProgramState{Whole: true}
	}
	if in := p.coming[sender{tenant, digest}]; in != nil {
		return &wire.ProgramState{Have: in.have, Busy: in.busy}
	}
	return &wire.ProgramState{}
}

// use returns the file of a program and keeps it there until release is called. fault.NotFound: it is not here.
func (p *programs) use(digest string) (file string, release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.whole[digest]
	if known == nil {
		return "", nil, fault.Say(fault.NotFound, "the server does not have the program %s%.64s; upload it first", wire.ProgramScheme, digest)
	}
	p.touch(known)
	known.users++
	return known.file, sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		known.users--
	}), nil
}

// touch notes that a program is used. mu is held.
func (p *programs) touch(known *program) {
	now := time.Now()
	if now.Sub(known.used) < time.Minute {
		return
	}
	known.used = now
	if err := os.Chtimes(filepath.Dir(known.file), now, now); err != nil {
		p.log.Debug("it cannot be noted when a program was last used", "program", filepath.Base(known.file), "error", err)
	}
}

// tidy removes what nobody goes on with, and what nobody has used for long.
func (p *programs) tidy() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from, in := range p.coming {
		if !in.busy && time.Since(in.heard) > comingLife {
			p.discard(from, in)
		}
	}
	for digest, known := range p.whole {
		if time.Since(known.used) > p.life && p.idle(digest, known) {
			p.remove(digest, known)
		}
	}
}

// idle reports whether nobody needs a program. mu is held.
func (p *programs) idle(digest string, known *program) bool {
	return known.users == 0 && !p.needed(digest)
}

// remove removes a program, and reports whether it has. mu is held.
func (p *programs) remove(digest string, known *program) bool {
	err := failpoint.Hit("program.delete.before")
	if err == nil {
		err = os.RemoveAll(filepath.Dir(known.file))
	}
	if err == nil {
		err = failpoint.Hit("program.delete.after")
	}
	if err != nil {
		p.log.Warn("an old program cannot be removed", "program", filepath.Base(known.file), "error", err)
		return false // removing it again does no harm
	}
	delete(p.whole, digest)
	p.log.Debug("an old program was removed", "program", filepath.Base(known.file), "digest", digest)
	return true
}

// makeRoom removes the programs that were not used for longest, until there is room for another of that size. mu is held.
func (p *programs) makeRoom(size int64) error {
	count, bytes := len(p.whole)+len(p.coming), size
	for _, known := range p.whole {
		bytes += known.size
	}
	for _, in := range p.coming {
		bytes += in.size
	}
	var idle []string
	for digest, known := range p.whole {
		if p.idle(digest, known) {
			idle = append(idle, digest)
		}
	}
	slices.SortFunc(idle, func(a, b string) int { return p.whole[a].used.Compare(p.whole[b].used) })
	n := 0
	for ; n < len(idle) && (count >= p.most || bytes > p.mostBytes); n++ {
		count, bytes = count-1, bytes-p.whole[idle[n]].size
	}
	if count >= p.most || bytes > p.mostBytes {
		return fault.Say(fault.Exhausted, "the server keeps as many programs as it may, %d or %d MiB together, and machines need them all",
			p.most, p.mostBytes>>20)
	}
	for _, digest := range idle[:n] {
		if !p.remove(digest, p.whole[digest]) {
			return fault.Say(fault.Unavailable, "the server cannot remove an old program to make room; its operator finds the reason in its log")
		}
	}
	return nil
}

// isDigest reports whether a text is the SHA-256 of something, as it is written here.
func isDigest(text string) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && len(sum) == 32 && hex.EncodeToString(sum) == text
}

// nameOf makes the name of a file of what a program is called at home.
func nameOf(name string) string {
	name = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-' {
			return c
		}
		return '-'
	}, name)
	name = strings.TrimLeft(name, ".-")
	return cmp.Or(name[:min(len(name), 64)], "program")
}

// partName is what the directory of a program is called that has not come whole.
func partName() string { return ".coming-" + rand.Text() }

func unkept(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", fault.Say(fault.StoreFull, "the server's disk has no room for the program"), err)
	}
	return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "the server cannot keep programs at the moment; its operator finds the reason in its log"), err)
}
