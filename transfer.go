package dayfly

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/lend"
)

// Upload stores one input, as the u of a [Job]'s Input says: size bytes from r. When r is also an io.Seeker the upload
// is repeated from the start if it fails in passing. When Upload returns r is read no more, except that a Read of it
// that goes on when ctx ends is not waited for. fault.Invalid if r yields another number of bytes; fault.Denied if the
// URL has expired; fault.TooLarge.
func (c *Client) Upload(ctx context.Context, u Upload, r io.Reader, size int64) error {
	target, err := c.resolve(u.URL)
	if err != nil {
		return err
	}
	seeker, repeatable := r.(io.Seeker)
	var start int64
	if repeatable {
		// What claims to seek may not: a pipe is an *os.File too.
		if start, err = seeker.Seek(0, io.SeekCurrent); err != nil {
			repeatable = false
		}
	}
	again := c.newBackoff()
	for {
		source := &exactly{r: r, size: size}
		body := lend.New(source, size)
		err := c.put(ctx, u, target, body, size)
		// A transport may still read when the server has answered already.
		if body.TakeBack(ctx) && source.err != nil { // nothing to do with the server
			return source.err
		}
		if err == nil || !repeatable || !again.wait(ctx, err) {
			return err
		}
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return fmt.Errorf("dayfly: reading what is to be uploaded again: %w", err)
		}
	}
}

func (c *Client) put(ctx context.Context, u Upload, target *url.URL, body io.Reader, size int64) error {
	req, err := http.NewRequestWithContext(ctx, u.Method, target.String(), body)
	if err != nil {
		return fmt.Errorf("dayfly: %w: %w", fault.Invalid, err)
	}
	for name, value := range u.Headers {
		req.Header.Set(name, value)
	}
	if req.ContentLength = size; size == 0 {
		req.Body = http.NoBody
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(ctx, req, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return readProblem(resp)
	}
	return nil
}

// exactly is a reader of size bytes that fails when there are more or fewer, before the last of them has been passed
// on: a file that changes while it is sent must not be stored as if it had not.
type exactly struct {
	r    io.Reader
	size int64
	n    int64
	err  error // how reading failed
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.err != nil {
		return 0, e.err
	}
	n, err := e.r.Read(p)
	e.n += int64(n)
	if err == nil && e.n == e.size {
		var more [1]byte
		extra := 0
		for extra == 0 && err == nil {
			extra, err = e.r.Read(more[:])
		}
		e.n += int64(extra)
	}
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		e.err = fmt.Errorf("dayfly: reading what is to be uploaded: %w", err)
	case e.n > e.size, errors.Is(err, io.EOF) && e.n < e.size:
		e.err = fault.Say(fault.Invalid, "the input is not the %d bytes that were announced; did it change while it was uploaded?", e.size)
	}
	if e.err != nil {
		return 0, e.err
	}
	return n, err
}

// resolve returns the absolute form of a URL that the server handed out.
func (c *Client) resolve(ref string) (*url.URL, error) {
	target, err := c.base.Parse(ref)
	if err != nil || ref == "" {
		return nil, fault.Say(fault.Invalid, "%q is not a URL to transfer a file by", ref)
	}
	return target, nil
}

// Download returns the bytes of an artifact. The reader goes on where it was when the connection breaks, and at the
// end it fails with fault.Internal, instead of io.EOF, when what has arrived is not what the artifact's size and
// SHA-256 say. The caller closes it. fault.Denied if the URL has expired: ask for the job again.
func (c *Client) Download(ctx context.Context, a Artifact) (io.ReadCloser, error) {
	target, err := c.resolve(a.DownloadURL)
	if err != nil {
		return nil, fmt.Errorf("dayfly: artifact %s: %w", a.Name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	d := &download{c: c, ctx: ctx, cancel: cancel, artifact: a, url: target, sum: sha256.New(), again: c.newBackoff()}
	for {
		err := d.open()
		if err == nil {
			return d, nil
		}
		if !d.again.wait(ctx, err) {
			cancel()
			return nil, err
		}
	}
}

// download is a reader of one artifact.
type download struct {
	c        *Client
	ctx      context.Context // ends with the reader: Close cancels it
	cancel   context.CancelFunc
	artifact Artifact
	url      *url.URL
	sum      hash.Hash
	again    *backoff

	body     io.ReadCloser
	watchdog *time.Timer
	offset   int64
}

// open asks for the rest of the artifact.
func (d *download) open() error {
	ctx, cancel := context.WithCancel(d.ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		cancel()
		return fmt.Errorf("dayfly: %w: %w", fault.Invalid, err)
	}
	// The checksum is that of the bytes as stored, so no transport may compress them on the way.
	req.Header.Set("Accept-Encoding", "identity")
	want := http.StatusOK
	if d.offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.offset))
		want = http.StatusPartialContent
	}
	resp, err := d.c.http.Do(req)
	if err != nil {
		defer cancel()
		return unreachable(d.ctx, req, err)
	}
	if resp.StatusCode != want {
		defer cancel()
		defer resp.Body.Close()
		if resp.StatusCode < 300 {
			return fmt.Errorf("dayfly: artifact %s: %w: the server cannot go on from byte %d", d.artifact.Name, fault.Internal, d.offset)
		}
		return readProblem(resp)
	}
	d.body = &closer{resp.Body, cancel}
	d.watchdog = time.AfterFunc(silence, cancel)
	return nil
}

type closer struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *closer) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// Read reads on, asking for the rest when the connection breaks.
func (d *download) Read(p []byte) (int, error) {
	for {
		// Only the server's silence counts, not the time the caller takes between two reads.
		d.watchdog.Reset(silence)
		n, err := d.body.Read(p)
		d.watchdog.Stop()
		d.sum.Write(p[:n])
		if d.offset += int64(n); d.offset > d.artifact.Size {
			return n, d.damaged()
		}
		if n > 0 {
			d.again.reset()
			return n, nil
		}
		if err == nil {
			continue
		}
		if d.offset == d.artifact.Size {
			return 0, d.verify()
		}
		d.closeBody()
		failed := fmt.Errorf("dayfly: artifact %s broke off at byte %d of %d: %w: %w", d.artifact.Name, d.offset, d.artifact.Size, fault.Unavailable, err)
		for {
			if !d.again.wait(d.ctx, failed) {
				return 0, failed
			}
			if failed = d.open(); failed == nil {
				break
			}
		}
	}
}

// verify returns io.EOF if what has arrived is the artifact.
func (d *download) verify() error {
	if hex.EncodeToString(d.sum.Sum(nil)) != d.artifact.SHA256 {
		return d.damaged()
	}
	return io.EOF
}

func (d *download) damaged() error {
	return fmt.Errorf("dayfly: %w: artifact %s arrived damaged: it is not the %d bytes with SHA-256 %s that were stored",
		fault.Internal, d.artifact.Name, d.artifact.Size, d.artifact.SHA256)
}

func (d *download) closeBody() {
	d.watchdog.Stop()
	d.body.Close()
}

// Close ends the download.
func (d *download) Close() error {
	defer d.cancel()
	d.closeBody()
	return nil
}
