package hire

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/failpoint"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// incoming is a program on its way. Its file and sum are used by whoever is busy with it.
type incoming struct {
	file *os.File
	sum  hash.Hash // of what has come
	size int64     // of all of it

	have  int64     // guarded by the programs' mu
	busy  bool      // guarded by the programs' mu; somebody sends
	heard time.Time // guarded by the programs' mu; when somebody last did
}

// part is a piece of a program: its bytes from From on, to its end.
type part struct {
	tenant, digest string
	name           string // what the program is called at home
	size, from     int64
}

// receive takes what is missing of a program, and returns when it is whole. What has come of a body that broke off is kept
// for a while.
//
// fault.Conflict: somebody else sends it, or the bytes go on elsewhere. fault.Invalid: it cannot be a program's upload, or the
// bytes that came are not those of the digest, and all are discarded. fault.Exhausted: there is no room. fault.Unavailable:
// the body broke off.
func (p *programs) receive(at part, body io.Reader) (*wire.ProgramState, error) {
	switch {
	case !isDigest(at.digest):
		return nil, fault.Say(fault.Invalid, "a program is uploaded under the 64 hexadecimal digits of its SHA-256")
	case at.size > wire.MaxProgram:
		return nil, fault.Say(fault.TooLarge, "a program may have at most %d MiB, and this one has %d", wire.MaxProgram>>20, at.size>>20)
	case at.size <= 0 || at.from < 0 || at.from > at.size:
		return nil, fault.Say(fault.Invalid, "size and from do not fit together: %d and %d", at.size, at.from)
	}
	in, err := p.begin(at)
	if err != nil || in == nil {
		return &wire.ProgramState{Whole: err == nil}, err
	}
	to := &toDisk{p: p, in: in}
	n, _ := io.Copy(to, io.LimitReader(body, at.size-at.from+1)) // how the body ended does not matter, but how much has come
	var done *program
	switch err = to.err; {
	case err == nil && n > at.size-at.from:
		err = fault.Say(fault.Invalid, "more than the %d bytes have come that were announced", at.size)
	case err == nil && n == at.size-at.from:
		done, err = p.complete(in, at.digest)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	in.busy, in.heard = false, time.Now()
	from := sender{at.tenant, at.digest}
	switch {
	case done != nil:
		return p.publish(from, in, done)
	case p.whole[at.digest] != nil: // another tenant was faster
		p.discard(from, in)
		return &wire.ProgramState{Whole: true}, nil
	case err == nil:
		return nil, fault.Say(fault.Unavailable, "the program broke off at byte %d of %d; send the rest", in.have, at.size)
	}
	p.discard(from, in)
	return nil, err
}

// begin returns the program that is to go on with this part, or nil if it is whole already.
func (p *programs) begin(at part) (*incoming, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.whole[at.digest]; known != nil {
		p.touch(known)
		return nil, nil
	}
	from := sender{at.tenant, at.digest}
	in := p.coming[from]
	if in == nil {
		if err := p.admit(at.tenant, at.size); err != nil {
			return nil, err
		}
		in = &incoming{sum: sha256.New(), size: at.size}
		dir := filepath.Join(p.dir, partName())
		err := os.Mkdir(dir, 0o700)
		if err == nil {
			in.file, err = os.OpenFile(filepath.Join(dir, nameOf(at.name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
		}
		if err != nil {
			return nil, unkept(errors.Join(err, os.RemoveAll(dir)))
		}
		in.heard = time.Now()
		p.coming[from] = in
	}
	switch {
	case in.busy:
		return nil, fault.Say(fault.Conflict, "the program is being uploaded by another process")
	case in.size != at.size:
		return nil, fault.Say(fault.Invalid, "the program was announced with %d bytes, and now with %d", in.size, at.size)
	case in.have != at.from:
		return nil, fault.Say(fault.Conflict, "the program goes on at byte %d, not %d", in.have, at.from)
	}
	in.busy = true
	return in, nil
}

// admit refuses a program for which there is no room. mu is held.
func (p *programs) admit(tenant string, size int64) error {
	own := 0
	for from := range p.coming {
		if from.tenant == tenant {
			own++
		}
	}
	if own >= maxComingEach || len(p.coming) >= maxComing {
		return fault.Say(fault.Exhausted, "too many programs are being uploaded; try again in a moment")
	}
	return p.makeRoom(size)
}

// complete verifies what has come and makes it a program that can be run, though not yet under its name.
func (p *programs) complete(in *incoming, digest string) (*program, error) {
	if got := hex.EncodeToString(in.sum.Sum(nil)); got != digest {
		return nil, fault.Say(fault.Invalid, "the bytes that came are not the program: their SHA-256 is %s and not %s; did its file change while it was sent?", got, digest)
	}
	err := in.file.Sync()
	if err == nil {
		err = in.file.Chmod(0o500)
	}
	if err := errors.Join(err, in.file.Close()); err != nil {
		return nil, unkept(err)
	}
	// A process that is being started at this moment has all files of this one until it has become another program, and
	// what somebody may write nobody can run. Each holds this lock until then.
	syscall.ForkLock.RLock()
	syscall.ForkLock.RUnlock() //nolint:staticcheck // waiting is what it is for
	return &program{size: in.size}, nil
}

// publish gives a program its name, and forgets that it was on its way. mu is held.
func (p *programs) publish(from sender, in *incoming, done *program) (*wire.ProgramState, error) {
	delete(p.coming, from)
	part, dir := filepath.Dir(in.file.Name()), filepath.Join(p.dir, from.digest)
	if p.whole[from.digest] != nil { // another tenant was faster
		p.drop(part)
		return &wire.ProgramState{Whole: true}, nil
	}
	if err := p.keep(part, dir); err != nil {
		p.drop(part)
		p.drop(dir)
		return nil, unkept(err)
	}
	done.file = filepath.Join(dir, filepath.Base(in.file.Name()))
	done.used = time.Now()
	p.whole[from.digest] = done
	p.log.Info("a program was uploaded", "program", filepath.Base(done.file), "bytes", done.size, "digest", from.digest, "tenant", from.tenant)
	for other, rest := range p.coming {
		if other.digest == from.digest && !rest.busy {
			p.discard(other, rest)
		}
	}
	return &wire.ProgramState{Whole: true}, nil
}

// keep makes a part whole, for good.
func (p *programs) keep(part, dir string) error {
	if err := failpoint.Hit("program.put.before"); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return err
	}
	if err := flush(p.dir); err != nil {
		return err
	}
	return failpoint.Hit("program.put.after")
}

// discard removes what has come of a program. mu is held.
func (p *programs) discard(from sender, in *incoming) {
	delete(p.coming, from)
	_ = in.file.Close() // or it is closed already
	p.drop(filepath.Dir(in.file.Name()))
}

// drop removes a directory. What stays is removed when the server starts again.
func (p *programs) drop(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		p.log.Warn("what was uploaded of a program cannot be removed", "error", err)
	}
}

// flush makes a change of a directory durable.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// toDisk keeps what comes, and tells failures of the disk from those of who sends.
type toDisk struct {
	p   *programs
	in  *incoming
	err error
}

func (d *toDisk) Write(b []byte) (int, error) {
	n, err := d.in.file.Write(b)
	d.in.sum.Write(b[:n])
	d.p.mu.Lock()
	d.in.have += int64(n)
	d.p.mu.Unlock()
	if err != nil {
		d.err = unkept(err)
	}
	return n, err
}
