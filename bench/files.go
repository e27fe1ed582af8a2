package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
)

// fileServer is the bare file server that artifacts are compared with: PUT writes the body to a file, GET sends it.
type fileServer struct {
	dir string
	// careful makes it do what Dayfly promises about a stored file: its SHA-256 is known, and it is on the disk when
	// the PUT is answered.
	careful bool
}

// runFiles is "bench files ADDRESS DIR CAREFUL".
func runFiles(args []string) error {
	if len(args) != 3 {
		return errors.New("usage: bench files ADDRESS DIR CAREFUL")
	}
	careful, err := strconv.ParseBool(args[2])
	if err != nil {
		return fmt.Errorf("whether to be careful: %w", err)
	}
	s := &fileServer{dir: args[1], careful: careful}
	return serveUntilStopped(args[0], s.handler())
}

func (s *fileServer) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /files/{name}", s.put)
	mux.Handle("GET /files/", http.StripPrefix("/files/", http.FileServer(http.Dir(s.dir))))
	mux.HandleFunc("GET /v1/jobs", func(http.ResponseWriter, *http.Request) {}) // how services are asked whether they answer
	return mux
}

func (s *fileServer) put(w http.ResponseWriter, r *http.Request) {
	sum, err := s.store(filepath.Join(s.dir, filepath.Base(r.PathValue("name"))), r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, sum)
}

// store writes the file and returns its SHA-256, if it is careful.
func (s *fileServer) store(name string, body io.Reader) (sum string, err error) {
	file, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if !s.careful {
		_, err := io.Copy(file, body)
		return "", err
	}
	digest := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, digest), body); err != nil {
		return "", err
	}
	return hex.EncodeToString(digest.Sum(nil)), file.Sync()
}
