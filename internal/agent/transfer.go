package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

const (
	// parallel is how many files of one attempt are on their way at once.
	parallel = 4
	// stall is how long a transfer may stand still before it is begun anew.
	stall = 2 * time.Minute
	// transferPatience is for how long a file that fails in passing may stand still, all its tries together. The time
	// in which it moves does not count, nor that in which the server is waited for, which is the line's to bound.
	transferPatience = 5 * time.Minute
	// maxRefused is how often a file is tried that fails for a reason which does not look passing. A new URL may help
	// once; it does not the third time.
	maxRefused = 3
)

// transfer makes a request to a URL that carries its own authority, and hands the body of a successful answer to use.
// It ends one in which no byte has moved for a while; build is given what is to be called for each piece of the
// request's body that has. Once the request is sent it waits as much longer for the answer as wait says. It calls moved when
// it begins and for each piece of either body.
func (a *attempt) transfer(
	ctx context.Context, moved func(), wait time.Duration, build func(ctx context.Context, moving func()) (*http.Request, error), use func(body io.Reader) error,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(stall, func() { cancel(fmt.Errorf("no byte has moved for %v", stall)) })
	defer watchdog.Stop()
	moving := func() {
		watchdog.Reset(stall)
		moved()
	}
	moved()

	request, err := build(ctx, moving)
	if err != nil {
		return err
	}
	request = request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { watchdog.Reset(stall + wait) },
	}))
	request.Header.Set("User-Agent", "dayfly-agent/"+a.version)
	// What was uploaded is wanted as it is, also when it is a compressed file.
	request.Header.Set("Accept-Encoding", "identity")
	response, err := a.web.Do(request)
	if err != nil {
		return unanswered(ctx, err)
	}
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		detail, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // the status says enough if this fails
		return refusedTransfer(response, detail)
	}
	if err := use(&movingReader{response.Body, moving}); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// refusedTransfer makes the error of an answer that is not a success. The other end need not be our server, so the
// status decides: what a fresh URL or time may cure is fault.Unavailable or, from somebody who understood the request,
// fault.Denied.
func refusedTransfer(response *http.Response, body []byte) error {
	kind := fault.Denied
	switch code := response.StatusCode; {
	case code >= 500 && code != http.StatusInsufficientStorage, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		kind = fault.Unavailable
	}
	return fault.Say(kind, "the answer was %s: %s", response.Status, printable(strings.TrimSpace(string(body)), 256))
}

// movingReader tells of every piece that it passes on.
type movingReader struct {
	io.Reader
	moving func()
}

func (r *movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.moving()
	}
	return n, err
}

// persist tries a transfer until it succeeds, or fails for good. try is told how often it was called before, and calls
// moved whenever the file has got on.
func (a *attempt) persist(ctx context.Context, try func(tries int, moved func()) error) error {
	pace, refused := a.line.newPace(), 0
	var still time.Duration // how long nothing has moved, all tries together
	var last atomic.Int64   // when something moved last; the transport may tell of it late
	moved := func() { last.Store(int64(a.line.clock())) }
	for tries := 0; ; tries++ {
		moved()
		err := try(tries, moved)
		if err == nil || ctx.Err() != nil {
			return err
		}
		switch fault.Of(err) {
		case fault.Unavailable:
		case fault.Denied:
			refused++
		default:
			return err
		}
		failed := a.line.clock()
		still += failed - time.Duration(last.Load())
		if refused >= maxRefused || still > transferPatience || !pace.wait(ctx, err) {
			return err
		}
		still += a.line.clock() - failed
	}
}

// each calls do for the numbers from 0 to n-1, a few at a time, until one fails. It returns the first failure.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	numbers := make(chan int)
	var workers sync.WaitGroup
	for range min(n, parallel) {
		workers.Go(func() {
			for i := range numbers {
				if err := do(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case numbers <- i:
		case <-ctx.Done():
		}
	}
	close(numbers)
	workers.Wait()
	return context.Cause(ctx)
}

// localFailure makes the error of a file that could not be read or written here: that does not pass.
func localFailure(doing string, err error) error {
	kind := fault.Internal
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		kind = fault.Exhausted
	}
	return fault.Say(kind, "%s: %v", doing, err)
}
