package remoteblob

import (
	"io"
	"net"
	"net/http"
	"time"

	"github.com/dayfly-run/dayfly/internal/lend"
)

// Transport returns what carries the requests to a service. What a peer that does not answer can cost is bounded, and a
// request's body is its caller's again, to be rewound and sent once more, when the request has failed or its answer's body
// has been closed; no goroutine still reads it then. A service may be silent for a minute, or for longer if it is said so.
func Transport(silence time.Duration) http.RoundTripper {
	return lending{&http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: max(patience, silence),
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       90 * time.Second,
		ExpectContinueTimeout: time.Second, // not all services answer that question
		// An object is wanted as it is kept, also when it is a compressed file.
		DisableCompression: true,
	}}
}

// lending lends each request's body to a transport, and takes it back.
type lending struct{ transport http.RoundTripper }

// RoundTrip makes one request.
func (l lending) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return l.transport.RoundTrip(r)
	}
	size := r.ContentLength
	if size == 0 {
		size = -1 // which is what it means together with a body
	}
	lent := lend.New(r.Body, size)
	takeBack := func() {
		lent.TakeBack(r.Context()) // whose end ends the request, and nobody rewinds the body after that
		_ = r.Body.Close()         // it is a reader's, and its caller has nobody to tell
	}
	try := r.WithContext(r.Context())
	try.Body, try.GetBody = lent, nil // another body would be lent to nobody
	answer, err := l.transport.RoundTrip(try)
	if err != nil {
		takeBack()
		return nil, err
	}
	answer.Body = &lastly{answer.Body, takeBack}
	return answer, nil
}

// lastly is a body that does something when it has been closed. Not before: a transport that could not go on sending would
// give up the connection, and with it what is still to be read of an early answer.
type lastly struct {
	io.ReadCloser
	do func()
}

func (l *lastly) Close() error {
	defer l.do()
	return l.ReadCloser.Close()
}
