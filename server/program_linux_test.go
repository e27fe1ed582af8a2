package server_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/wire"
	"github.com/dayfly-run/dayfly/machine"
	"github.com/dayfly-run/dayfly/server"
)

// carried is a machine that runs the program of a file, a shell.
func carried(name, file, script string) *machine.Spec {
	spec := hired(name)
	spec.Command, spec.Program = nil, &machine.Program{File: file, Args: []string{"-c", script}}
	return spec
}

// shellFile copies the shell to a file of its own, with something behind it that makes it another program of a size.
func shellFile(t *testing.T, behind int) string {
	t.Helper()
	shell, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(shell)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "thumbnails")
	if err := os.WriteFile(file, append(text, make([]byte, behind)...), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

// kept returns the files of the programs that a server keeps, and what else is beside them.
func kept(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "programs", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Glob(filepath.Join(dir, "programs", ".*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(files, parts...)
}

// exits waits until a machine has exited and returns how.
func exits(t *testing.T, p machine.Provider, id string) *machine.Exit {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(10 * time.Millisecond) {
		m, err := p.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if m.State == machine.Exited {
			return m.Exit
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machine is %+v after a long time, want that it has exited", m)
		}
	}
}

func TestNoFileOfTheServersComputerIsRunForAnybody(t *testing.T) {
	t.Parallel()
	var dir string
	s, cloud := hireServer(t, func(o *server.Options) { dir = o.DataDir })
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	c := client(t, s, s.Token())
	file := shellFile(t, 0)
	m, err := c.Provider("mem").Create(t.Context(), carried("runner-1", file, "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	if exit := exits(t, c.Provider("mem"), m.ID); exit.Code != 7 {
		t.Errorf("a program that was uploaded: got exit %+v, want status 7", exit)
	}
	own := kept(t, dir)
	if len(own) != 1 || filepath.Base(own[0]) != "thumbnails" {
		t.Fatalf("got %q kept, want the program under its name", own)
	}
	for _, file := range []string{
		secret, "/etc/shadow", machine.ThisProgram, own[0], "thumbnails", wire.ProgramScheme, wire.ProgramScheme + secret,
		wire.ProgramScheme + "../" + filepath.Base(filepath.Dir(own[0])), wire.ProgramScheme + strings.ToUpper(filepath.Base(filepath.Dir(own[0]))),
		wire.ProgramScheme + strings.Repeat("0", 64),
	} {
		for path, body := range map[string]string{
			"machines": `{"holder":"h","spec":{"name":"runner-2","owner":"calls","lifetime":60000000000,"program":{"file":"` + file + `"}}}`,
			"programs": `{"file":"` + file + `"}`,
		} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/hired/v1/mem/"+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+s.Token())
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			said, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := http.StatusUnprocessableEntity
			if strings.HasSuffix(file, "0000") {
				want = http.StatusNotFound // it was not uploaded
			}
			if resp.StatusCode != want || strings.Contains(string(said), dir) {
				t.Errorf("POST %s with the program %s: got status %d and %s, want %d and no path of the server's", path, file, resp.StatusCode, said, want)
			}
		}
	}
	if all := cloud.Machines(); len(all) != 1 {
		t.Errorf("got %d machines, want that of the program which was uploaded", len(all))
	}
}

// cutting is a transport that breaks connections in the middle of uploads.
type cutting struct {
	piece int64 // of each upload that gets through
	times atomic.Int64
}

func (c *cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && r.ContentLength > c.piece && c.times.Add(-1) >= 0 {
		r = r.Clone(r.Context())
		r.Body = &cutBody{r.Body, c.piece}
	}
	return http.DefaultTransport.RoundTrip(r)
}

type cutBody struct {
	io.ReadCloser
	left int64
}

func (c *cutBody) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errors.New("the cable was pulled")
	}
	n, err := c.ReadCloser.Read(b[:min(int64(len(b)), c.left)])
	c.left -= int64(n)
	return n, err
}

func TestAnUploadGoesOnAfterTheConnectionBroke(t *testing.T) {
	t.Parallel()
	var dir string
	s, _ := hireServer(t, func(o *server.Options) { dir = o.DataDir })
	transport := &cutting{piece: 1 << 20}
	transport.times.Store(3)
	c, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token(), HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := c.Provider("mem").Create(t.Context(), carried("runner-1", shellFile(t, 5<<20), "exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	if exit := exits(t, c.Provider("mem"), m.ID); exit.Code != 7 {
		t.Errorf("got exit %+v, want status 7", exit)
	}
	if left := transport.times.Load(); left >= 0 {
		t.Errorf("%d cuts are left, want that all were made", left)
	}
	if all := kept(t, dir); len(all) != 1 {
		t.Errorf("got %q kept, want the program alone", all)
	}
}

func TestParentsThatUploadAtOnceCostOneCopy(t *testing.T) {
	t.Parallel()
	var dir string
	s, _ := hireServer(t, func(o *server.Options) { dir = o.DataDir })
	file := shellFile(t, 8<<20)
	var sent atomic.Int64
	counting := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPut {
			r = r.Clone(r.Context())
			r.Body = &countedBody{r.Body, &sent}
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	var group sync.WaitGroup
	for n := range 6 {
		c, err := dayfly.NewClient(s.URL(), &dayfly.ClientOptions{Token: s.Token(), HTTPClient: counting})
		if err != nil {
			t.Fatal(err)
		}
		p := c.Provider("mem")
		group.Go(func() {
			if err := p.CheckProgram(t.Context(), &machine.Program{File: file}); err != nil {
				t.Errorf("CheckProgram of parent %d: got error %v, want nil", n, err)
			}
		})
	}
	group.Wait()
	if all := kept(t, dir); len(all) != 1 {
		t.Errorf("got %q kept, want one copy", all)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := sent.Load(); got < info.Size() || got > info.Size()+info.Size()/2 {
		t.Errorf("got %d bytes sent, want those of one program, %d, and not more than what others begin in vain", got, info.Size())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *countedBody) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func TestAProgramThatTheServerHasLostIsUploadedAgain(t *testing.T) {
	t.Parallel()
	var dir string
	s, _ := hireServer(t, func(o *server.Options) { dir = o.DataDir; o.MaxPrograms = 1 })
	p := client(t, s, s.Token()).Provider("mem")
	one, other := shellFile(t, 1), shellFile(t, 2)
	for n, file := range []string{one, other, one} {
		if err := p.CheckProgram(t.Context(), &machine.Program{File: file}); err != nil {
			t.Errorf("CheckProgram %d of a server that keeps one: got error %v, want nil", n, err)
		}
	}
	m, err := p.Create(t.Context(), carried("runner-1", other, "sleep 600"))
	if err != nil {
		t.Fatalf("Create with a program that is not there any more: got error %v, want that it is uploaded again", err)
	}
	// Now it is needed.
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.CheckProgram(short, &machine.Program{File: one}); !errors.Is(err, fault.Unavailable) {
		t.Errorf("CheckProgram of another while a machine needs the one there is room for: got error %v, want fault.Unavailable", err)
	}
	if all := kept(t, dir); len(all) != 1 {
		t.Errorf("got %q kept, want one", all)
	}
	if err := p.Destroy(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if err := p.CheckProgram(t.Context(), &machine.Program{File: one}); err != nil {
		t.Errorf("CheckProgram of another when the machine is gone: got error %v, want nil", err)
	}
}
