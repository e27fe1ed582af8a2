package server_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/machine/memmachine"
	"github.com/dayfly-run/dayfly/server"
)

// options are those of a server that listens anywhere on loopback and keeps its data in a fresh directory.
func options(t *testing.T) server.Options {
	t.Helper()
	provider := memmachine.New(nil)
	t.Cleanup(provider.Cloud().Close) // machines outlive the server, and here the test too
	return server.Options{
		DataDir:   filepath.Join(t.TempDir(), "data"),
		Providers: map[string]machine.Provider{"memory": provider},
		Listen:    []string{"127.0.0.1:0"},
		Version:   "test",
	}
}

// start makes a server and runs it until stop is called, or the test ends.
func start(t *testing.T, o server.Options) (s *server.Server, stop func() error) {
	t.Helper()
	s, err := server.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			return errors.New("the server does not end")
		}
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return s, stop
}

func client(t *testing.T, s *server.Server, token string) *dayfly.Client {
	t.Helper()
	c, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: token, Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAServerServesAndStops(t *testing.T) {
	t.Parallel()
	s, stop := start(t, options(t))
	version, err := client(t, s, "").Version(t.Context())
	if err != nil || version != "test" {
		t.Errorf("got version %q, %v; want test", version, err)
	}
	begin := time.Now()
	if err := stop(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v to end, although nothing was in flight", took)
	}
	if _, err := client(t, s, "").Version(t.Context()); fault.Of(err) != fault.Unavailable {
		t.Errorf("after its end it answers %v, want unavailable", err)
	}
}

func TestAStreamThatIsWatchedDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	s, stop := start(t, options(t))
	c := client(t, s, "")
	never := false
	job, err := c.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}, Start: &never}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range c.Events(context.Background(), job.ID, 0) {
			if last = err; err == nil {
				close(seen)
			}
		}
		ended <- last
	}()
	<-seen
	begin := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v to end with a stream open", took)
	}
	if err := <-ended; fault.Of(err) != fault.Unavailable {
		t.Errorf("the stream ended with %v, want unavailable", err)
	}
}

func TestRequestsThatWaitDoNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	s, stop := start(t, options(t))
	never := false
	job, err := client(t, s, "").Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}, Start: &never}, nil)
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		status int
		body   string
		err    error // of reading the body
	}
	ask := func(path string) answer {
		response, err := http.Get(s.URL() + path)
		if err != nil {
			return answer{err: err}
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return answer{response.StatusCode, string(body), err}
	}
	waited, followed := make(chan answer, 1), make(chan answer, 1)
	go func() { waited <- ask("/v1/jobs/" + job.ID + "/wait?timeout=5m") }()
	go func() { followed <- ask("/v1/jobs/" + job.ID + "/logs?follow=true") }()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(ask("/metrics").body, "\ndayfly_streams 2\n"); {
		if time.Now().After(deadline) {
			t.Fatal("the server does not say that two requests wait")
		}
	}
	begin := time.Now()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v to end while requests waited", took)
	}
	if a := <-waited; a.err != nil || a.status != http.StatusServiceUnavailable || !strings.Contains(a.body, "wait again") {
		t.Errorf("who waited for a job got %d %s (%v), want 503 and to wait again", a.status, a.body, a.err)
	}
	if a := <-followed; a.status != http.StatusOK || !errors.Is(a.err, io.ErrUnexpectedEOF) {
		t.Errorf("who followed a job's output got %d and then %v, want 200 and an unexpected end", a.status, a.err)
	}
}

func TestTheDataDirectoryIsPrivate(t *testing.T) {
	t.Parallel()
	o := options(t)
	_, stop := start(t, o)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(o.DataDir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("its mode is %v (%v), want 0700", info.Mode().Perm(), err)
	}
	for _, name := range []string{"key", "token"} {
		if info, err := os.Stat(filepath.Join(o.DataDir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the mode of %s is %v (%v), want 0600", name, info.Mode().Perm(), err)
		}
	}
	if err := os.Chmod(o.DataDir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, stop = start(t, o); stop() != nil {
		t.Error("it did not end well")
	}
	if info, err := os.Stat(o.DataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("having been opened, its mode is %v (%v) after the next start, want 0700", info.Mode().Perm(), err)
	}
}

func TestADirectoryThatOthersUseIsRefusedAndLeftAsItIs(t *testing.T) {
	t.Parallel()
	o := options(t)
	if err := os.MkdirAll(filepath.Join(o.DataDir, "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(o.DataDir, 0o755); err != nil { // whatever the umask
		t.Fatal(err)
	}
	if _, err := server.New(t.Context(), o); fault.Of(err) != fault.Invalid || !strings.Contains(err.Error(), "chmod 700") || !strings.Contains(err.Error(), "photos") {
		t.Errorf("got %v, want a refusal that names photos and says chmod 700", err)
	}
	if info, err := os.Stat(o.DataDir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("its mode is %v (%v), want it to be left as it was", info.Mode().Perm(), err)
	}
}

func TestOneServerUsesADirectoryAtATime(t *testing.T) {
	t.Parallel()
	o := options(t)
	if _, err := server.FindOwner(o.DataDir); fault.Of(err) != fault.NotFound {
		t.Errorf("before there is a server, its owner is %v, want not_found", err)
	}
	s, stop := start(t, o)
	if _, err := server.New(t.Context(), o); fault.Of(err) != fault.Conflict || !strings.Contains(err.Error(), "is in use by process") {
		t.Errorf("a second server: got %v, want an error of kind conflict that says who has the directory", err)
	}
	owner, err := server.FindOwner(o.DataDir)
	if err != nil || owner.URL != s.LocalURL() || owner.PID != os.Getpid() || owner.Token != s.Token() {
		t.Errorf("got the owner %+v, %v; want this process at %s", owner, err, s.LocalURL())
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.FindOwner(o.DataDir); fault.Of(err) != fault.NotFound {
		t.Errorf("after its end, the owner is %v, want not_found", err)
	}
}

func TestAnyPortIsTheOneUsedLast(t *testing.T) {
	t.Parallel()
	o := options(t)
	s, stop := start(t, o)
	first := s.URL()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	s, stop = start(t, o)
	if s.URL() != first {
		t.Errorf("the second server is at %s, want %s again", s.URL(), first)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", strings.TrimPrefix(first, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if s, _ := start(t, o); s.URL() == first {
		t.Error("the third server claims to listen where somebody else does")
	}
}

// TestWhoMayUseAServerThatCanBeReached is the matrix of where a server listens and what protects it.
func TestWhoMayUseAServerThatCanBeReached(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		change  func(o *server.Options)
		token   bool // there is one
		refused bool // the server does not start
		open    bool // it answers without a token
	}{
		"loopback alone":                  {func(*server.Options) {}, false, false, true},
		"loopback with a token":           {func(*server.Options) {}, true, false, true},
		"loopback that asks for a token":  {func(o *server.Options) { o.RequireToken = true }, false, false, false},
		"all addresses alone":             {func(o *server.Options) { o.Listen = []string{"0.0.0.0:0"} }, false, true, false},
		"all addresses, IPv6 too":         {func(o *server.Options) { o.Listen = []string{":0"} }, false, true, false},
		"all addresses with a token":      {func(o *server.Options) { o.Listen = []string{"0.0.0.0:0"} }, true, false, false},
		"one of two beyond loopback":      {func(o *server.Options) { o.Listen = append(o.Listen, "0.0.0.0:0") }, false, true, false},
		"all addresses, explicitly open":  {func(o *server.Options) { o.Listen, o.AllowOpen = []string{"0.0.0.0:0"}, true }, false, false, true},
		"behind a proxy":                  {func(o *server.Options) { o.PublicURL = "https://dayfly.example.com" }, false, true, false},
		"behind a proxy with a token":     {func(o *server.Options) { o.PublicURL = "https://dayfly.example.com" }, true, false, false},
		"a public URL that is local":      {func(o *server.Options) { o.PublicURL = "http://localhost:9" }, false, false, true},
		"all addresses with TLS, alone":   {func(o *server.Options) { o.Listen, o.TLS = []string{"0.0.0.0:0"}, selfSigned(nil) }, false, true, false},
		"localhost by name":               {func(o *server.Options) { o.Listen = []string{"localhost:0"} }, false, false, true},
		"another address of loopback":     {func(o *server.Options) { o.Listen = []string{"127.8.9.10:0"} }, false, false, true},
		"an address that looks like it":   {func(o *server.Options) { o.Listen = []string{"128.0.0.1:0"} }, false, true, false},
		"an address that cannot be had":   {func(o *server.Options) { o.Listen = []string{"127.0.0.1:1", "127.0.0.1:1"} }, false, true, false},
		"a name that begins like it":      {func(o *server.Options) { o.PublicURL = "http://localhost.example.com" }, false, true, false},
		"an expired token does not count": {func(o *server.Options) { o.Listen = []string{"0.0.0.0:0"} }, false, true, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			if tc.token || strings.HasPrefix(name, "an expired") {
				createToken(t, o, tc.token)
			}
			tc.change(&o)
			if tc.refused {
				if s, err := server.New(t.Context(), o); err == nil {
					s.Close()
					t.Fatal("it starts, want a refusal")
				}
				if _, err := server.FindOwner(o.DataDir); fault.Of(err) != fault.NotFound {
					t.Errorf("a server that did not start still owns its directory: %v", err)
				}
				return
			}
			s, _ := start(t, o)
			c, err := dayfly.NewClient(s.LocalURL(), &dayfly.ClientOptions{Patience: -1})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Version(t.Context())
			if tc.open && err != nil {
				t.Errorf("without a token: got %v, want an answer", err)
			}
			if !tc.open && fault.Of(err) != fault.Unauthenticated {
				t.Errorf("without a token: got %v, want unauthenticated", err)
			}
			c, err = dayfly.NewClient(s.LocalURL(), &dayfly.ClientOptions{Token: s.Token(), Patience: -1})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Version(t.Context()); err != nil {
				t.Errorf("with the owner's token: got %v, want an answer", err)
			}
		})
	}
}

// createToken makes a token in a data directory, one that lives or one that has expired.
func createToken(t *testing.T, o server.Options, lives bool) {
	t.Helper()
	s, stop := start(t, o)
	life := time.Duration(0)
	if !lives {
		life = time.Nanosecond
	}
	if _, err := client(t, s, "").CreateToken(t.Context(), "admin", []string{"admin"}, life); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

// selfSigned returns a certificate for 127.0.0.1, and adds it to a pool if there is one.
func selfSigned(pool *x509.CertPool) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	if pool != nil {
		pool.AddCert(certificate)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

func TestWithTLSThisComputerStillComesByLoopback(t *testing.T) {
	t.Parallel()
	pool := x509.NewCertPool()
	o := options(t)
	o.TLS = selfSigned(pool)
	s, _ := start(t, o)
	public, err := url.Parse(s.URL())
	if err != nil || public.Scheme != "https" {
		t.Errorf("its URL is %s, want https", s.URL())
	}
	if !strings.HasPrefix(s.LocalURL(), "http://127.0.0.1:") {
		t.Errorf("its local URL is %s, want a loopback port without TLS", s.LocalURL())
	}
	outside := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	c, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{HTTPClient: outside})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(t.Context()); err != nil {
		t.Errorf("by TLS: %v", err)
	}
	if c, err = dayfly.NewClient(s.LocalURL(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Version(t.Context()); err != nil {
		t.Errorf("by loopback: %v", err)
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Connections = 2
	s, _ := start(t, o)
	address := strings.TrimPrefix(s.URL(), "http://")
	var open []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := client(t, s, "").Version(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third connection: got %v, want it to wait", err)
	}
	open[0].Close()
	if _, err := client(t, s, "").Version(t.Context()); err != nil {
		t.Errorf("once there is room: %v", err)
	}
}

func TestASlowHeaderIsCutOff(t *testing.T) {
	t.Parallel()
	s, _ := start(t, options(t))
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := conn.SetReadDeadline(begin.Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open after 20s")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("cut off after %v, want about 5s", took)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	t.Parallel()
	cases := map[string]func(o *server.Options){
		"a relative directory": func(o *server.Options) { o.DataDir = "data" },
		"no provider":          func(o *server.Options) { o.Providers = nil },
		"an unknown default":   func(o *server.Options) { o.DefaultProvider = "moon" },
		"no address at all":    func(o *server.Options) { o.Listen = []string{"nowhere"} },
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			change(&o)
			if s, err := server.New(t.Context(), o); err == nil {
				s.Close()
				t.Error("it starts, want a refusal")
			}
		})
	}
}

func TestNothingIsOpenToOthersWhateverTheUmask(t *testing.T) {
	t.Parallel()
	o := options(t)
	s, stop := start(t, o)
	c := client(t, s, "")
	if _, err := c.Submit(t.Context(), &dayfly.JobSpec{Command: []string{"true"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(o.DataDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && d.IsDir() && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("the directory %s has mode %v, want it to be closed to others", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
