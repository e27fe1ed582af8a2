package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// fetch brings all inputs into the working directory, or returns why one could not be had.
func (a *attempt) fetch() error {
	if len(a.job.Inputs)+len(a.job.Outputs) == 0 {
		return nil
	}
	if err := a.files.openWork(a.place); err != nil {
		return err
	}
	a.inputs = make(map[string]wire.Input, len(a.job.Inputs))
	for _, input := range a.job.Inputs {
		a.inputs[path.Clean(input.Name)] = input
	}
	urls := &inputURLs{inputs: a.job.Inputs}
	return each(a.work, len(a.job.Inputs), func(ctx context.Context, i int) error {
		input := a.job.Inputs[i]
		err := a.persist(ctx, func(tries int, moved func()) error {
			url, err := urls.get(ctx, a, i, tries)
			if err != nil {
				return err
			}
			return a.fetchOne(ctx, &input, url, moved)
		})
		if err != nil {
			return fmt.Errorf("input %s: %w", input.Name, err)
		}
		return nil
	})
}

// inputURLs are where to get the inputs from. A URL does not work for ever, and the server it leads to may have moved;
// so before a second try the claim is repeated, which is answered with fresh ones.
type inputURLs struct {
	mu     sync.Mutex // guards what follows, and lets one at a time repeat the claim
	inputs []wire.Input
	fresh  time.Duration // when they were asked for, by the attempt's clock
}

// get returns the URL of the i-th input for its next try. A server that is away is waited for.
func (u *inputURLs) get(ctx context.Context, a *attempt, i, tries int) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if tries == 0 || u.fresh > 0 && a.line.clock()-u.fresh < time.Second {
		return u.inputs[i].URL, nil
	}
	err := a.line.do(ctx, func(ctx context.Context, to Address) error {
		to.Token = a.place.Boot.Token // the claim's
		again := a.claimRequest()
		to.Attempt = again.Attempt
		again.Detour = true // the store itself may be out of reach from here
		job, err := a.line.link.Claim(ctx, to, again)
		if err != nil {
			return err
		}
		if len(job.Inputs) != len(u.inputs) {
			return garbled("the repeated claim names %d inputs instead of %d", len(job.Inputs), len(u.inputs))
		}
		u.inputs, u.fresh = job.Inputs, a.line.clock()
		return nil
	})
	return u.inputs[i].URL, err
}

// fetchOne gets one input under a temporary name, and renames it once it is whole and what it should be.
func (a *attempt) fetchOne(ctx context.Context, input *wire.Input, url string, moved func()) error {
	if !filepath.IsLocal(input.Name) || path.Clean(input.Name) == "." {
		return fault.Say(fault.Invalid, "its name does not lead into the working directory")
	}
	work := a.files.work
	if err := work.MkdirAll(path.Dir(path.Clean(input.Name)), 0o777); err != nil {
		return localFailure("making its directory", err)
	}
	file, temporary, err := createTemporary(work, 0o666)
	if err != nil {
		return localFailure("making its file", err)
	}
	defer file.Close()
	err = a.transfer(ctx, moved, 0, func(ctx context.Context, _ func()) (*http.Request, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return nil, fault.Say(fault.Denied, "the server named a URL that is none")
		}
		return request, nil
	}, func(body io.Reader) error {
		return receive(file, body, input)
	})
	if err == nil {
		err = finishFile(work, file, temporary, input.Name)
	}
	if err != nil {
		// If it stays, it is in nobody's way: the next try makes another, and after the last nothing is run here.
		_ = work.Remove(temporary)
	}
	return err
}

// receive writes the body to the file and checks that it is the input.
func receive(file *os.File, body io.Reader, input *wire.Input) error {
	hash := sha256.New()
	// One byte more than there should be is enough to know.
	source := &remote{io.LimitReader(body, input.Size+1), nil}
	n, err := io.Copy(io.MultiWriter(file, hash), source)
	switch {
	case source.err != nil:
		return fault.Say(fault.Unavailable, "it broke off after %d of %d bytes: %v", n, input.Size, source.err)
	case err != nil:
		return localFailure("writing it", err)
	case n < input.Size:
		return fault.Say(fault.Unavailable, "it ended after %d of %d bytes", n, input.Size)
	case n > input.Size:
		return fault.Say(fault.Denied, "it is longer than the %d bytes that were uploaded", input.Size)
	}
	if sum := hex.EncodeToString(hash.Sum(nil)); sum != input.SHA256 {
		return fault.Say(fault.Denied, "its content is not what was uploaded: its SHA-256 is %s instead of %s", sum, input.SHA256)
	}
	return nil
}

// remote remembers the error of reading from the other end, to tell it from one of writing here.
type remote struct {
	io.Reader
	err error
}

func (r *remote) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && err != io.EOF {
		r.err = withoutURL(err)
	}
	return n, err
}

// finishFile gives a whole file its name.
func finishFile(root *os.Root, file *os.File, temporary, name string) error {
	if err := file.Close(); err != nil {
		return localFailure("writing it", err)
	}
	if info, err := root.Lstat(name); err == nil && info.IsDir() {
		return localFailure("giving it its name", &fs.PathError{Op: "rename", Path: name, Err: fs.ErrExist})
	}
	if err := root.Rename(temporary, name); err != nil {
		return localFailure("giving it its name", err)
	}
	return nil
}

// failFetch fills in the result of an attempt whose inputs could not be had.
func failFetch(r *wire.Result, err error) {
	r.Outcome, r.Reason = wire.Failed, "input_failed"
	if fault.Of(err) == fault.Exhausted {
		r.Reason = "disk_full"
	}
	r.Message = "The command was not started, for want of " + plain(err) + "."
}
