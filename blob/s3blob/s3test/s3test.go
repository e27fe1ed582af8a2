// Package s3test runs a real S3 service for the length of a test: versitygw, on a directory that goes with the test.
package s3test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/dayfly-run/dayfly/internal/remoteblob/remoteblobtest"
)

// Service is a running S3 service.
type Service struct {
	URL       string // such as http://127.0.0.1:40321
	Bucket    string // one that exists
	AccessKey string
	SecretKey string
	Dir       string // Bucket's, in which every object is a file; removing it is losing the bucket
}

// Start starts a service on a free port of this host (host "": 127.0.0.1) and waits until it answers. It ends with the
// test. The test fails if versitygw is not installed.
func Start(t testing.TB, host string) *Service {
	t.Helper()
	if host == "" {
		host = "127.0.0.1"
	}
	program := find(t)
	root := t.TempDir()
	s := &Service{Bucket: "bucket", AccessKey: "access", SecretKey: "a-secret-of-the-test", Dir: filepath.Join(root, "data", "bucket")}
	sidecar := filepath.Join(root, "meta") // not every file system has the attributes that it would use otherwise
	for _, dir := range []string{s.Dir, sidecar} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.URL = remoteblobtest.Serve(t, host, func(ctx context.Context, host, port string) *exec.Cmd {
		command := exec.CommandContext(ctx, program, "--port", net.JoinHostPort(host, port), "--quiet", "--keep-alive", "posix", "--sidecar", sidecar, filepath.Dir(s.Dir))
		command.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		return command
	}, func(string) bool { return true })
	return s
}

func find(t testing.TB) string {
	t.Helper()
	if program, err := exec.LookPath("versitygw"); err == nil {
		return program
	}
	var places []string
	for _, variable := range []string{"GOBIN", "GOPATH"} {
		text, err := exec.CommandContext(t.Context(), "go", "env", variable).Output()
		if dir := string(bytes.TrimSpace(text)); err == nil && dir != "" {
			places = append(places, filepath.Join(dir, "versitygw"), filepath.Join(dir, "bin", "versitygw"))
		}
	}
	for _, place := range places {
		if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
			return place
		}
	}
	t.Fatal("versitygw, the S3 service of this test, is not installed; run: make setup")
	return ""
}
