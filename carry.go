package dayfly

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/lend"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
)

// carrier brings programs of this computer to a server, each build once, so that the server's machines can run them. It is safe
// for concurrent use.
type carrier struct {
	client  Client
	sending chan struct{} // holds an element while somebody sends

	mu      sync.Mutex
	log     *slog.Logger              // guarded by mu
	digests map[programVersion]string // guarded by mu; of files that were read
}

// programVersion is what tells whether a file still holds what it held.
type programVersion struct {
	file     string
	size     int64
	modified time.Time
}

// maxDigests is how many files a carrier remembers.
const maxDigests = 64

func newCarrier(c *Client) *carrier {
	return &carrier{
		client: *c, sending: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler), digests: map[programVersion]string{},
	}
}

// logTo names the logger that is told how programs get to the server.
func (c *carrier) logTo(log *slog.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = log
}

func (c *carrier) logger() *slog.Logger {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log
}

// with calls ask with the program as the server knows it; nil stays nil. ask returns fault.NotFound when the server does not have
// the program. It is then brought there, and ask is called again.
//
// fault.Unsupported: the file is no program. fault.TooLarge: it is too large for a server.
func (c *carrier) with(ctx context.Context, program *machine.Program, ask func(*machine.Program) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	if program == nil {
		return ask(nil)
	}
	f, err := openProgram(program.File)
	if err != nil {
		return err
	}
	defer f.Close()
	if f.digest, err = c.digest(f); err != nil {
		return err
	}
	there := &machine.Program{File: wire.ProgramScheme + f.digest, Args: program.Args}
	for range 3 { // what a server has that is short of room may be gone a moment later
		if err = ask(there); !errors.Is(err, fault.NotFound) {
			return err
		}
		if err := c.bring(ctx, f); err != nil {
			return err
		}
	}
	return fmt.Errorf("dayfly: %w: the server loses the program again and again: %w", fault.Unavailable, err)
}

// programFile is the file of a program that is open.
type programFile struct {
	*os.File
	name    string // what people call it
	version programVersion
	digest  string
}

// openProgram opens the file of a program. The one that runs here is what this process has been made of, also when its file holds
// something else by now.
func openProgram(path string) (*programFile, error) {
	name := filepath.Base(path)
	if path == machine.ThisProgram {
		own, err := os.Executable()
		if err != nil {
			return nil, fault.Say(fault.Unsupported, "It cannot be found out which program runs here: %v.", err)
		}
		own = strings.TrimSuffix(own, " (deleted)")
		name = filepath.Base(own)
		if runtime.GOOS != "linux" {
			path = own
		}
	}
	cannot := func(why string) error {
		return fault.Say(fault.Unsupported, "The program %s cannot be brought to the server: %s.", name, why)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, cannot(plainPath(err))
	}
	info, err := file.Stat()
	why := ""
	switch {
	case err != nil:
		why = plainPath(err)
	case !info.Mode().IsRegular():
		why = "it is no file"
	case runtime.GOOS != "windows" && info.Mode()&0o111 == 0:
		why = "its file is not executable"
	case info.Size() == 0:
		why = "its file is empty"
	}
	if why != "" {
		return nil, errors.Join(cannot(why), file.Close())
	}
	if info.Size() > wire.MaxProgram {
		return nil, errors.Join(fault.Say(fault.TooLarge, "The program %s has %d MiB, and a server takes at most %d; build it with -ldflags='-s -w'.",
			name, info.Size()>>20, wire.MaxProgram>>20), file.Close())
	}
	return &programFile{File: file, name: name, version: programVersion{path, info.Size(), info.ModTime()}}, nil
}

// plainPath is an error about a file without its path.
func plainPath(err error) string {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		err = path.Err
	}
	return err.Error()
}

// digest returns the SHA-256 of a program. Of each version of a file it is computed once.
func (c *carrier) digest(f *programFile) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock() // the second who asks gets what the first has read
	if known := c.digests[f.version]; known != "" {
		return known, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, f.version.size)); err != nil {
		return "", fault.Say(fault.Unsupported, "The program %s cannot be read: %s.", f.name, plainPath(err))
	}
	if len(c.digests) >= maxDigests {
		clear(c.digests)
	}
	text := hex.EncodeToString(sum.Sum(nil))
	c.digests[f.version] = text
	return text, nil
}

// bring makes a program be at the server. A connection that breaks is made again, and what has come is not sent again, for as long
// as there is progress once a minute.
func (c *carrier) bring(ctx context.Context, f *programFile) error {
	c.mu.Lock()
	log := c.log.With("program", f.name)
	c.mu.Unlock()
	select {
	case c.sending <- struct{}{}:
		defer func() { <-c.sending }()
	case <-ctx.Done():
		return c.onTheWay(ctx, f, nil)
	}
	patient := c.client
	patient.patience = defaultPatience
	again, began := patient.newBackoff(), time.Now()
	u := &programUpload{carrier: c, file: f, log: log}
	for {
		whole, err := u.step(ctx)
		if whole {
			if u.sent > 0 {
				log.Info("the program is at the server", "took", time.Since(began).Round(time.Millisecond))
			}
			return nil
		}
		if u.advanced {
			again.reset()
		}
		if ctx.Err() != nil {
			return c.onTheWay(ctx, f, u)
		}
		if errors.Is(err, fault.Conflict) { // somebody else has sent something meanwhile
			err = fault.Say(fault.Unavailable, "%v", err)
		}
		log.Debug("the program is not at the server yet", "have", u.have, "error", err)
		if !again.wait(ctx, err) {
			if ctx.Err() != nil {
				return c.onTheWay(ctx, f, u)
			}
			return fmt.Errorf("dayfly: uploading the program %s: %w", f.name, err)
		}
	}
}

// onTheWay is the error of who does not wait until the program is at the server.
func (c *carrier) onTheWay(ctx context.Context, f *programFile, u *programUpload) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("dayfly: %w: %w", fault.Canceled, context.Cause(ctx))
	}
	far := ""
	if u != nil {
		far = fmt.Sprintf(", %d of %d KiB have come", u.have>>10, f.version.size>>10)
	}
	return fault.Say(fault.Unavailable, "The program %s is not at the server yet%s; the next runner goes on with it.", f.name, far)
}

// programUpload is one program on its way.
type programUpload struct {
	carrier *carrier
	file    *programFile
	log     *slog.Logger

	have     int64 // bytes that the server has or that are on their way
	known    int64 // bytes that the server has said it has
	sent     int64 // bytes that went from here
	advanced bool  // more has come to the server since the step before
	said     time.Time
}

// step asks how far the server is, and sends what is missing if it is this program's turn. An error that is no answer leaves
// open how far it has come.
func (u *programUpload) step(ctx context.Context) (whole bool, err error) {
	u.advanced = false
	var state wire.ProgramState
	path := strings.TrimSuffix(wire.ProgramPrefix, "/") + "/" + u.file.digest
	if err := u.carrier.client.call(ctx, request{method: http.MethodGet, path: path}, &state); err != nil {
		return false, err
	}
	u.have, u.advanced = state.Have, state.Have > u.known
	u.known = max(u.known, state.Have)
	switch {
	case state.Whole:
		return true, nil
	case state.Busy:
		u.tell()
		return false, fault.Say(fault.Unavailable, "another process uploads the program, %d of %d KiB have come", u.have>>10, u.file.version.size>>10)
	}
	u.tell()
	err = u.send(ctx, path, &state)
	return state.Whole, err
}

// tell says now and then how far it is.
func (u *programUpload) tell() {
	if time.Since(u.said) < 5*time.Second {
		return
	}
	u.said = time.Now()
	u.log.Info("this program is uploaded to the server", "have", u.have, "of", u.file.version.size)
}

// send sends what is missing.
func (u *programUpload) send(ctx context.Context, path string, state *wire.ProgramState) error {
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watchdog := time.AfterFunc(silence, func() { stop(fault.Say(fault.Unavailable, "the server takes nothing any more")) })
	defer watchdog.Stop()
	missing := u.file.version.size - u.have
	body := lend.New(&counted{r: io.NewSectionReader(u.file, u.have, missing), count: func(n int) {
		watchdog.Reset(silence)
		u.have += int64(n)
		u.sent += int64(n)
		u.tell()
	}}, missing)
	query := url.Values{"name": {u.file.name}, "size": {strconv.FormatInt(u.file.version.size, 10)}, "from": {strconv.FormatInt(u.have, 10)}}
	client := &u.carrier.client
	req, err := client.newRequest(sending, request{method: http.MethodPut, path: path, query: query}, nil)
	if err != nil {
		return err
	}
	req.Body, req.ContentLength = body, missing
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set("Expect", "100-continue") // who is refused has sent nothing
	err = client.do(sending, req, state)
	body.TakeBack(context.Background()) // a file is read in no time
	return err
}

// counted is a reader that tells how much was read.
type counted struct {
	r     io.Reader
	count func(int)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(n)
	return n, err
}
