package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
)

// What a machine's command prints goes through a pipe to its supervisor, which keeps the last of it beside the record,
// in files of one size that are removed as later ones are begun:
//
//	slots/17/output/stdout.3   one mebibyte
//	slots/17/output/stdout.4   what has come since
//	slots/17/output/stderr.0
//
// Whoever reads them asks nobody: they are there as long as the machine is. What an agent's command prints goes to the
// server.

// keptFile is the size of one file of output, of which there are two at most for each stream: so the last mebibyte is
// always there.
const keptFile = 1 << 20

// keeper keeps one stream of a machine. It is used by one goroutine.
type keeper struct {
	path   string // without the number
	number int
	size   int
	file   *os.File
}

// keep reads a stream until it ends, whatever becomes of the files: a command must not stop because a disk is full.
func (k *keeper) keep(from io.Reader) (failed error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if failedNow := k.write(buf[:n]); failedNow != nil && failed == nil {
			failed = failedNow
		}
		if err != nil {
			if k.file != nil {
				k.file.Close()
			}
			return failed
		}
	}
}

func (k *keeper) write(text []byte) error {
	for len(text) > 0 {
		if k.file == nil || k.size >= keptFile {
			if err := k.next(); err != nil {
				return err
			}
		}
		some := text[:min(len(text), keptFile-k.size)]
		n, err := k.file.Write(some)
		k.size += n
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// next begins a file, and removes the last but one before it.
func (k *keeper) next() (err error) {
	number := k.number
	if k.file != nil {
		k.file.Close()
		k.file = nil
		number++
	} else if err := os.MkdirAll(filepath.Dir(k.path), 0o700); err != nil {
		return err
	}
	k.number, k.size = number, 0
	if k.file, err = os.OpenFile(k.path+strconv.Itoa(number), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	if err := os.Remove(k.path + strconv.Itoa(number-2)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// streams are the names of a command's streams, in the order of what it is started with.
func streams() [2]string { return [2]string{"stdout", "stderr"} }

// outputs is what is kept of a command while it runs.
type outputs struct {
	readers, writers [2]*os.File
	done             chan struct{} // closed when both have ended
}

// openOutputs makes the pipes of a command.
func openOutputs() (o *outputs, err error) {
	o = &outputs{done: make(chan struct{})}
	for i := range o.readers {
		if o.readers[i], o.writers[i], err = os.Pipe(); err != nil {
			o.abandon()
			return nil, err
		}
	}
	return o, nil
}

func (o *outputs) abandon() {
	for _, file := range slices.Concat(o.readers[:], o.writers[:]) {
		if file != nil {
			file.Close()
		}
	}
}

// keep keeps what the command prints, which has been started with the writers.
func (o *outputs) keep(c *cell) {
	ended := make(chan struct{}, len(o.readers))
	for i, name := range streams() {
		o.writers[i].Close()
		k := &keeper{path: filepath.Join(c.slot.output, name+".")}
		c.s.work.Go(func() {
			defer func() { ended <- struct{}{} }()
			if err := k.keep(o.readers[i]); err != nil {
				c.s.log.Warn("what a machine prints cannot be kept", "machine", c.spec.Name, "err", err)
			}
		})
	}
	c.s.work.Go(func() {
		for range o.readers {
			<-ended
		}
		close(o.done)
	})
}

// drain waits until all is kept that the command has printed, which has ended with its whole tree. Somebody else may
// have been given the pipe; for him nobody waits.
func (o *outputs) drain() {
	timeout := time.NewTimer(2 * time.Second)
	defer timeout.Stop()
	select {
	case <-o.done:
	case <-timeout.C:
	}
	for _, file := range o.readers {
		file.Close()
	}
	<-o.done
}

// followInterval is how often it is looked for more of what is followed.
const followInterval = 50 * time.Millisecond

// Logs writes what the machine's command has printed, as [machine.Logger] says: the last mebibyte of each stream at
// least. It works without any supervisor. What an agent's command prints is not here: the agent sends it to its server.
func (p *Provider) Logs(ctx context.Context, id string, follow bool, stdout, stderr io.Writer) error {
	r, err := p.readSound(ctx, id)
	if err != nil {
		return err
	}
	output := filepath.Join(p.layout.slot(r.Supervisor, r.Slot), outputName)
	var readers []*reader
	for i, w := range []io.Writer{stdout, stderr} {
		if w != nil {
			readers = append(readers, &reader{dir: output, stream: streams()[i], w: w})
		}
	}
	tick := time.NewTicker(followInterval)
	defer tick.Stop()
	for {
		m, err := p.Get(ctx, id) // before what is there is read: then nothing comes after what is read of an exited one
		if err != nil {
			return err
		}
		for _, reader := range readers {
			if err := reader.copy(); err != nil {
				return fmt.Errorf("local: what machine %s prints: %w", id, err)
			}
		}
		if now, err := p.read(id); err != nil {
			return err
		} else if !now.same(&r.birth) {
			return fmt.Errorf("local: machine %s: %w: it was destroyed meanwhile", id, fault.NotFound)
		}
		if !follow || m.State.Rank() >= machine.Exited.Rank() {
			return nil
		}
		select {
		case <-ctx.Done():
			return canceled(context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// reader reads one stream of a machine from where it was.
type reader struct {
	dir, stream string
	w           io.Writer
	number      int   // of the file
	offset      int64 // in it
}

// copy writes what has come.
func (r *reader) copy() error {
	for {
		file, err := os.Open(filepath.Join(r.dir, r.stream+"."+strconv.Itoa(r.number)))
		if errors.Is(err, fs.ErrNotExist) {
			first, ok, err := r.first()
			if err != nil || !ok {
				return err
			}
			r.number, r.offset = first, 0
			continue
		}
		if err != nil {
			return err
		}
		n, err := io.Copy(r.w, io.NewSectionReader(file, r.offset, keptFile-r.offset))
		file.Close()
		r.offset += n
		if err != nil || r.offset < keptFile {
			return err
		}
		r.number, r.offset = r.number+1, 0
	}
}

// first returns the first file that is there from where the reader is; ok is false if there is none.
func (r *reader) first() (number int, ok bool, err error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	for _, e := range entries {
		rest, is := strings.CutPrefix(e.Name(), r.stream+".")
		n, failed := strconv.Atoi(rest)
		if is && failed == nil && n > r.number && (!ok || n < number) {
			number, ok = n, true
		}
	}
	return number, ok, err
}
