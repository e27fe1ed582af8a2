package fileblob_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/fileblob"
)

// BenchmarkUploadHTTP is one object through an HTTP server, against the same server that writes a plain file.
func BenchmarkUploadHTTP(b *testing.B) {
	for name, store := range map[string]func(dir string, r io.Reader) error{
		"plain": func(dir string, r io.Reader) error {
			f, err := os.Create(filepath.Join(dir, "file"))
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(f, r)
			return err
		},
		"fileblob": func(dir string, r io.Reader) error {
			s, err := fileblob.Open(dir, nil)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.Put(context.Background(), "a/b", r, nil)
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			url := serve(b, func(w http.ResponseWriter, r *http.Request) {
				if err := store(dir, r.Body); err != nil {
					b.Error(err)
				}
			})
			data := make([]byte, 1<<20)
			rand.Read(data)
			const size = 1 << 30
			b.SetBytes(size)
			for b.Loop() {
				req, err := http.NewRequest(http.MethodPut, url, io.LimitReader(&repeat{data: data}, size))
				if err != nil {
					b.Fatal(err)
				}
				req.ContentLength = size
				do(b, req)
			}
		})
	}
}

// BenchmarkDownloadHTTP is one object through an HTTP server, against http.ServeFile.
func BenchmarkDownloadHTTP(b *testing.B) {
	dir := b.TempDir()
	s := openStore(b, dir)
	const size = 1 << 30
	data := make([]byte, 1<<20)
	rand.Read(data)
	if _, err := s.Put(b.Context(), "a/b", io.LimitReader(&repeat{data: data}, size), nil); err != nil {
		b.Fatal(err)
	}
	for name, handler := range map[string]http.HandlerFunc{
		"plain": func(w http.ResponseWriter, r *http.Request) {
			http.ServeFile(w, r, filepath.Join(dir, "a", "b~o"))
		},
		"fileblob": func(w http.ResponseWriter, r *http.Request) {
			object, err := s.Get(r.Context(), "a/b", 0, -1)
			if err != nil {
				b.Error(err)
				return
			}
			defer object.Close()
			w.Header().Set("Content-Length", fmt.Sprint(size))
			w.Header().Set("Content-Type", "application/octet-stream")
			io.Copy(w, object)
		},
	} {
		b.Run(name, func(b *testing.B) {
			url := serve(b, handler)
			b.SetBytes(size)
			for b.Loop() {
				req, err := http.NewRequest(http.MethodGet, url, nil)
				if err != nil {
					b.Fatal(err)
				}
				do(b, req)
			}
		})
	}
}

// BenchmarkSmallPut is dominated by the flushes that make a small object durable.
func BenchmarkSmallPut(b *testing.B) {
	s := openStore(b, b.TempDir())
	data := bytes.Repeat([]byte("x"), 1000)
	for i := 0; b.Loop(); i++ {
		if _, err := s.Put(b.Context(), fmt.Sprintf("artifacts/job_%d/out.txt", i), bytes.NewReader(data), &blob.PutOptions{Size: 1000}); err != nil {
			b.Fatal(err)
		}
	}
}

func serve(b *testing.B, handler http.HandlerFunc) (url string) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(l)
	b.Cleanup(func() { server.Close() })
	return "http://" + l.Addr().String()
}

func do(b *testing.B, req *http.Request) {
	b.Helper()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20)); err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("%s: %s, %v", req.Method, resp.Status, err)
	}
}

// repeat yields the same bytes again and again.
type repeat struct {
	data []byte
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.data[r.at:])
	r.at = (r.at + n) % len(r.data)
	return n, nil
}

func openStore(t testing.TB, dir string) *fileblob.Store {
	t.Helper()
	s, err := fileblob.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
