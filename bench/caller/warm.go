package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dayfly-run/dayfly"
)

const (
	small = 64      // bytes of a bare echo
	large = 1 << 20 // bytes of a large argument
	turn  = 200     // how many of one kind come before as many of the other
)

// serveEcho answers what it is sent with the same. A connection's first line is how many bytes a message has, and how many its answer.
// It prints its address, and ends with its input.
func serveEcho(kind string) error {
	if kind != "tcp" {
		return fmt.Errorf("there is no echo by %q", kind)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // whatever ends it
		os.Exit(0)
	}()
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go answer(conn)
	}
}

func answer(conn net.Conn) {
	defer conn.Close()
	var sizes [32]byte
	if _, err := io.ReadFull(conn, sizes[:]); err != nil {
		return
	}
	fields := strings.Fields(string(sizes[:]))
	in, _ := strconv.Atoi(fields[0]) // this program has written them
	out, _ := strconv.Atoi(fields[1])
	message := make([]byte, max(in, out))
	for {
		if _, err := io.ReadFull(conn, message[:in]); err != nil {
			return
		}
		if _, err := conn.Write(message[:out]); err != nil {
			return
		}
	}
}

// echoServer is another process that answers.
type echoServer struct {
	address string
	command *exec.Cmd
	input   io.Closer
}

func startEcho(cpu string) (*echoServer, error) {
	cmd := exec.Command("/proc/self/exe", "echo", "tcp")
	if cpu != "" {
		cmd.Env = append(os.Environ(), cpuVariable+"="+cpu)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &echoServer{command: cmd, input: in}
	if _, err := fmt.Fscanln(out, &s.address); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *echoServer) close() error {
	s.input.Close()
	return s.command.Wait()
}

// bareEcho is a connection whose messages and answers have these sizes.
type bareEcho struct {
	conn    net.Conn
	message []byte
	answer  []byte
}

func (s *echoServer) dial(in, out int) (*bareEcho, error) {
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		return nil, err
	}
	_, err = fmt.Fprintf(conn, "%-32s", fmt.Sprint(in, " ", out))
	return &bareEcho{conn, make([]byte, in), make([]byte, out)}, err
}

func (e *bareEcho) round() error {
	if _, err := e.conn.Write(e.message); err != nil {
		return err
	}
	_, err := io.ReadFull(e.conn, e.answer)
	return err
}

// turns times a call and a bare echo, in turns.
func turns(count int, call, bare func() error) (calls, bares []time.Duration, err error) {
	for range turn { // nobody is cold
		if err := errors.Join(call(), bare()); err != nil {
			return nil, nil, err
		}
	}
	for len(calls) < count {
		for range min(turn, count-len(calls)) {
			began := time.Now()
			if err := bare(); err != nil {
				return nil, nil, err
			}
			bares = append(bares, time.Since(began))
		}
		for range min(turn, count-len(calls)) {
			began := time.Now()
			if err := call(); err != nil {
				return nil, nil, err
			}
			calls = append(calls, time.Since(began))
		}
	}
	return calls, bares, nil
}

// measureWarm is "caller warm CPU COUNT LARGE": calls one after the other to a runner on that processor, or any for "".
func measureWarm(args []string) (map[string]float64, error) {
	cpu := args[0]
	count, _ := strconv.Atoi(args[1]) // bench has written them
	larges, _ := strconv.Atoi(args[2])
	pool, err := newPool(dayfly.PoolOptions{Min: 1, Max: 1}, cpu)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	server, err := startEcho(cpu)
	if err != nil {
		return nil, err
	}
	defer server.close()
	ctx := context.Background()
	data := make([]byte, large)
	found := map[string]float64{}
	for _, m := range []struct {
		name    string
		count   int
		in, out int
		call    func() error
	}{
		{"noop", count, small, small, func() error { _, err := noop.Call(ctx, pool, struct{}{}); return err }},
		{"argument", larges, large, 1, func() error { _, err := size.Call(ctx, pool, data); return err }},
		{"echo", larges, large, large, func() error { _, err := echo.Call(ctx, pool, data); return err }},
	} {
		if m.count == 0 {
			continue
		}
		bare, err := server.dial(m.in, m.out)
		if err != nil {
			return nil, err
		}
		calls, bares, err := turns(m.count, m.call, bare.round)
		bare.conn.Close()
		if err != nil {
			return nil, err
		}
		found[m.name+"_p50"], found[m.name+"_p99"] = micros(calls, 0.5), micros(calls, 0.99)
		found["bare_"+m.name+"_p50"], found["bare_"+m.name+"_p99"] = micros(bares, 0.5), micros(bares, 0.99)
	}
	return found, nil
}

// measureCrowd is "caller crowd RUNNERS COUNT": 64 callers at once, and as many bare echoes with as many processes as there are runners.
func measureCrowd(args []string) (map[string]float64, error) {
	const callers = 64
	runners, _ := strconv.Atoi(args[0]) // bench has written them
	count, _ := strconv.Atoi(args[1])
	pool, err := newPool(dayfly.PoolOptions{Min: runners, Max: runners}, "")
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var servers []*echoServer
	for range runners {
		server, err := startEcho("")
		if err != nil {
			return nil, err
		}
		defer server.close()
		servers = append(servers, server)
	}
	ctx := context.Background()
	call := func() error { _, err := noop.Call(ctx, pool, struct{}{}); return err }
	var rounds []func() error
	for i := range callers {
		e, err := servers[i%runners].dial(small, small)
		if err != nil {
			return nil, err
		}
		defer e.conn.Close()
		rounds = append(rounds, e.round)
	}
	same := slices.Repeat([]func() error{call}, callers)
	if _, err := together(same, count/10+callers); err != nil {
		return nil, err
	}
	bare, err1 := together(rounds, count)
	calls, err2 := together(same, count)
	return map[string]float64{"calls": calls, "bare": bare}, errors.Join(err1, err2)
}

// together does count rounds, as many at once as there are functions, and returns how many a second there were.
func together(rounds []func() error, count int) (float64, error) {
	var left atomic.Int64
	left.Store(int64(count))
	errs := make(chan error, len(rounds))
	var working sync.WaitGroup
	began := time.Now()
	for _, round := range rounds {
		working.Go(func() {
			for left.Add(-1) >= 0 {
				if err := round(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	working.Wait()
	took := time.Since(began)
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(count) / took.Seconds(), nil
	}
}

// micros returns a percentile in microseconds.
func micros(samples []time.Duration, p float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(p*float64(len(sorted)))) - 1
	return float64(sorted[max(rank, 0)]) / float64(time.Microsecond)
}
