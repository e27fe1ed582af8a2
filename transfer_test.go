package dayfly_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
)

func TestUploadSendsWhatItWasToldTo(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "sound" || r.ContentLength != 5 || r.Method != http.MethodPut {
			t.Errorf("got %s of %q with length %d, %v; want PUT of sound with length 5", r.Method, body, r.ContentLength, err)
		}
		if got := r.Header.Get("X-Kind"); got != "blob" {
			t.Errorf("got the header %q, want blob", got)
		}
		if got := r.Header.Get("Authorization"); got != "" {
			t.Errorf("the token was sent to a signed URL: %q", got)
		}
	})
	u := dayfly.Upload{Method: http.MethodPut, URL: "/files/1?signature=x", Headers: map[string]string{"X-Kind": "blob"}}
	if err := c.Upload(t.Context(), u, strings.NewReader("sound"), 5); err != nil {
		t.Fatal(err)
	}
}

func TestUploadOfNothingSendsAnEmptyBody(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); len(body) != 0 || err != nil || r.ContentLength != 0 {
			t.Errorf("got %q with length %d, %v; want an empty body", body, r.ContentLength, err)
		}
	})
	if err := c.Upload(t.Context(), dayfly.Upload{Method: http.MethodPut, URL: "/f"}, strings.NewReader(""), 0); err != nil {
		t.Fatal(err)
	}
}

func TestUploadIsRepeatedFromTheStartWhenItCanBe(t *testing.T) {
	t.Parallel()
	tries := 0
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if tries++; tries == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		if string(body) != "sound" {
			t.Errorf("try %d brought %q, want sound", tries, body)
		}
	})
	u := dayfly.Upload{Method: http.MethodPut, URL: "/f"}
	if err := c.Upload(t.Context(), u, strings.NewReader("sound"), 5); err != nil || tries != 2 {
		t.Errorf("got %v after %d tries, want success at the second", err, tries)
	}
	tries = 0
	if err := c.Upload(t.Context(), u, io.MultiReader(strings.NewReader("sound")), 5); !errors.Is(err, fault.Unavailable) || tries != 1 {
		t.Errorf("of a reader that cannot go back: got %v after %d tries, want unavailable after one", err, tries)
	}
}

func TestUploadRefusesAnInputOfAnotherSize(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	u := dayfly.Upload{Method: http.MethodPut, URL: "/f"}
	for size, text := range map[int64]string{9: "shorter", 3: "longer"} {
		if err := c.Upload(t.Context(), u, strings.NewReader(text), size); fault.Of(err) != fault.Invalid {
			t.Errorf("%d bytes announced as %d: got %v, want an error of kind invalid", len(text), size, err)
		}
	}
}

func TestUploadReportsAReaderThatFails(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	broken := errors.New("disk on fire")
	err := c.Upload(t.Context(), dayfly.Upload{Method: http.MethodPut, URL: "/f"}, io.MultiReader(strings.NewReader("ab"), failing{broken}), 5)
	if !errors.Is(err, broken) {
		t.Errorf("got %v, want the reader's own error", err)
	}
}

func TestUploadRewindsWhatNobodyReadsAnyMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		var got []byte
		c := clientOver(t, time.Minute, func(r *http.Request) (*http.Response, error) {
			if tries++; tries <= 20 {
				go io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 1)) // as a transport may go on to do
				return respond(http.StatusServiceUnavailable, ""), nil
			}
			var err error
			got, err = io.ReadAll(r.Body)
			return respond(http.StatusOK, ""), err
		})
		content := randomBytes(100_000)
		err := c.Upload(t.Context(), dayfly.Upload{Method: http.MethodPut, URL: "/f"}, bytes.NewReader(content), int64(len(content)))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("got %v after %d tries, and the last brought %d bytes; want all %d", err, tries, len(got), len(content))
		}
	})
}

// held is a reader that yields nothing before it is released.
type held struct{ reading, release chan struct{} }

func (h held) Read([]byte) (int, error) {
	close(h.reading)
	<-h.release
	return 0, io.EOF
}

func TestUploadEndsWithItsContextAlsoWhileItsReaderIsHeldUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	h := held{make(chan struct{}), make(chan struct{})}
	defer close(h.release)
	c := clientOver(t, time.Minute, func(r *http.Request) (*http.Response, error) {
		go io.Copy(io.Discard, r.Body)
		<-h.reading
		cancel()
		return respond(http.StatusForbidden, ""), nil
	})
	if err := c.Upload(ctx, dayfly.Upload{Method: http.MethodPut, URL: "/f"}, h, 5); err == nil {
		t.Error("got nil, want the refusal or the end of the context")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// artifactOf describes content as the server would.
func artifactOf(content []byte) dayfly.Artifact {
	sum := sha256.Sum256(content)
	return dayfly.Artifact{Name: "out.mp3", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), DownloadURL: "/files/out.mp3"}
}

func randomBytes(n int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	content := make([]byte, n)
	source.Read(content)
	return content
}

func TestDownloadGoesOnWhereItBroke(t *testing.T) {
	t.Parallel()
	content := randomBytes(300_000)
	var ranges []string
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		from := 0
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		if len(ranges) < 3 {
			w.Write(content[from : from+100_000])
			hangUpStream(w)
		}
		w.Write(content[from:])
	})
	body, err := c.Download(t.Context(), artifactOf(content))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v; want the %d that were stored", len(got), err, len(content))
	}
	if len(ranges) != 3 || ranges[0] != "" || ranges[1] == "" {
		t.Errorf("asked for the ranges %q, want all and then twice the rest", ranges)
	}
}

func TestDownloadRefusesDamage(t *testing.T) {
	t.Parallel()
	content := randomBytes(10_000)
	artifact := artifactOf(content)
	cases := map[string][]byte{
		"a flipped bit": append(append([]byte{}, content[:9_999]...), content[9_999]^1),
		"too much":      append(append([]byte{}, content...), 'x'),
	}
	for name, sent := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(sent) })
			body, err := c.Download(t.Context(), artifact)
			if err != nil {
				t.Fatal(err)
			}
			defer body.Close()
			if _, err := io.ReadAll(body); fault.Of(err) != fault.Internal || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("got %v, want it to be refused as damaged", err)
			}
		})
	}
}

func TestDownloadOfNothingIsVerifiedToo(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(http.ResponseWriter, *http.Request) {})
	body, err := c.Download(t.Context(), artifactOf(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if got, err := io.ReadAll(body); len(got) != 0 || err != nil {
		t.Errorf("got %q, %v; want nothing", got, err)
	}
}

func TestDownloadPassesRefusalsOn(t *testing.T) {
	t.Parallel()
	c := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent to a signed URL")
		}
		w.WriteHeader(http.StatusForbidden)
	})
	if _, err := c.Download(t.Context(), artifactOf([]byte("x"))); fault.Of(err) != fault.Denied {
		t.Errorf("got %v, want an error of kind denied", err)
	}
	artifact := artifactOf([]byte("x"))
	artifact.DownloadURL = ""
	if _, err := c.Download(t.Context(), artifact); fault.Of(err) != fault.Invalid {
		t.Errorf("without a URL: got %v, want an error of kind invalid", err)
	}
}
