package api_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly"
	"github.com/dayfly-run/dayfly/internal/wire"
)

// pipes is a listener whose connections are pipes in memory, which have no buffer and obey the clock of a test.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// connect serves the API on a pipe and returns the client's end, to which the request has been written.
func (g *rig) connect(t *testing.T, request string) net.Conn {
	t.Helper()
	l := &pipes{make(chan net.Conn, 1), make(chan struct{})}
	server := &http.Server{Handler: g.api.Handler()}
	go server.Serve(l)
	client, conn := net.Pipe()
	l.conns <- conn
	t.Cleanup(func() { client.Close(); server.Close() })
	if _, err := io.WriteString(client, strings.ReplaceAll(request, "\n", "\r\n")); err != nil {
		t.Fatal(err)
	}
	return client
}

func TestAReaderThatDoesNotReadIsDroppedAfterAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		g.engine.addJob("job_a", dayfly.Running, "att_1")
		for range 8 {
			g.print("att_1", wire.Stdout, strings.Repeat("x", wire.MaxChunk))
		}
		client := g.connect(t, "GET /v1/jobs/job_a/logs?follow=true HTTP/1.1\nHost: localhost\n\n")
		begin := time.Now()
		if line, err := bufio.NewReaderSize(client, 16).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
			t.Fatalf("the answer begins %q, %v", line, err)
		}
		for held := true; held; {
			<-time.After(time.Second)
			held = strings.Contains(string(g.do("GET", "/metrics", "").body), "dayfly_streams 1")
			if time.Since(begin) > time.Minute {
				t.Fatal("after a minute without reading, the stream is still there")
			}
		}
		if took := time.Since(begin); took < 25*time.Second {
			t.Errorf("dropped after %v; want about 30 seconds", took)
		}
	})
}

func TestAnIdleStreamIsKeptAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		g.engine.addJob("job_a", dayfly.Queued)
		client := g.connect(t, "GET /v1/jobs/job_a/events?after=1 HTTP/1.1\nHost: localhost\nAccept: text/event-stream\n\n")
		begin, pings := time.Now(), 0
		scan := bufio.NewScanner(client)
		for pings < 20 && scan.Scan() {
			if scan.Text() == ": ping" {
				pings++
			}
		}
		if pings < 20 || time.Since(begin) < 295*time.Second || time.Since(begin) > 305*time.Second {
			t.Errorf("%d pings in %v, %v; want 20 in five minutes", pings, time.Since(begin), scan.Err())
		}
	})
}

func TestABodyThatDoesNotComeIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t)
		for request, wait := range map[string]time.Duration{
			"POST /v1/jobs HTTP/1.1\nHost: localhost\nContent-Length: 100\n\n{":                                         30 * time.Second,
			"PUT " + g.putURL("artifacts/job_a/att_a/x", 10, "") + " HTTP/1.1\nHost: localhost\nContent-Length: 5\n\n1": time.Minute,
		} {
			if g.engine.jobs["job_a"] == nil {
				g.engine.addJob("job_a", dayfly.Running, "att_a")
			}
			begin := time.Now()
			client := g.connect(t, request)
			resp, err := http.ReadResponse(bufio.NewReader(client), nil)
			if err != nil {
				t.Fatalf("%.20s: %v", request, err)
			}
			if took := time.Since(begin); resp.StatusCode != http.StatusRequestTimeout || took < wait || took > wait+5*time.Second {
				t.Errorf("%.20s: got %s after %v, want 408 after %v", request, resp.Status, took, wait)
			}
		}
	})
}
