package remoteblob

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// source is a body that is sent again. Its first Read lasts until somebody has moved it meanwhile, which nobody may, or for
// long enough that somebody would have.
type source struct {
	*bytes.Reader
	reads          atomic.Int64
	reading, moved chan struct{} // closed when the first Read has begun, and when somebody has rewound
	rewind         sync.Once
	together       atomic.Bool
}

func (s *source) Read(p []byte) (int, error) {
	if s.reads.Add(1) == 1 {
		close(s.reading)
		select {
		case <-s.moved:
			s.together.Store(true)
		case <-time.After(500 * time.Millisecond):
		}
	}
	return s.Reader.Read(p)
}

func (s *source) Seek(offset int64, whence int) (int64, error) {
	s.rewind.Do(func() { close(s.moved) })
	return s.Reader.Seek(offset, whence)
}

func TestABodyIsNotReadAnyMoreWhenItIsSentAgain(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, fail := range map[string]func(w http.ResponseWriter, r *http.Request, again <-chan struct{}){
		"it is refused before it was read": func(w http.ResponseWriter, r *http.Request, again <-chan struct{}) {
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, "busy")
			w.(http.Flusher).Flush()
			if r.ProtoMajor == 1 { // where the end of an answer is no news of what was sent, and the connection need not end
				<-again
			}
		},
		"the server breaks off": func(http.ResponseWriter, *http.Request, <-chan struct{}) { panic(http.ErrAbortHandler) },
	} {
		for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
			t.Run(version+", "+name, func(t *testing.T) {
				t.Parallel()
				body := &source{Reader: bytes.NewReader(content), reading: make(chan struct{}), moved: make(chan struct{})}
				var tries atomic.Int64
				again := make(chan struct{})
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if tries.Add(1) == 1 {
						<-body.reading
						fail(w, r, again)
						return
					}
					close(again)
					if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, content) || r.Proto != version {
						t.Errorf("the second try brought %d bytes by %s, %v; want the %d that are to be sent", len(got), r.Proto, err, len(content))
					}
				}))
				server.EnableHTTP2 = version == "HTTP/2.0"
				server.StartTLS()
				defer server.Close()
				client := &http.Client{Transport: lending{server.Client().Transport}}
				for send(t, client, server.URL, body, int64(len(content))) != http.StatusOK && tries.Load() < 2 {
					if _, err := body.Seek(0, io.SeekStart); err != nil {
						t.Fatal(err)
					}
				}
				if tries.Load() != 2 || body.together.Load() {
					t.Errorf("after %d tries, rewound while it was being read: %v; want 2, and never", tries.Load(), body.together.Load())
				}
			})
		}
	}
}

// send makes one try, and returns its status if there was an answer.
func send(t *testing.T, client *http.Client, url string, body io.Reader, size int64) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, io.NopCloser(body))
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = size
	answer, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); answer.StatusCode == http.StatusServiceUnavailable && (err != nil || string(text) != "busy") {
		t.Errorf("the refusal says %q, %v; want busy", text, err)
	}
	return answer.StatusCode
}
