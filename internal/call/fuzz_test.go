package call_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/internal/call"
)

// frames cuts fuzzed bytes into frames: a length of two bytes before each.
func frames(data []byte) (all [][]byte) {
	for len(data) >= 2 && len(all) < 50 {
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		all = append(all, data[2:2+n])
		data = data[2+n:]
	}
	return all
}

func framed(all ...string) (data []byte) {
	for _, f := range all {
		data = binary.BigEndian.AppendUint16(data, uint16(len(f)))
		data = append(data, f...)
	}
	return data
}

// Whatever a parent says, its runner does not crash, and ends when the link does.
func FuzzServer(f *testing.F) {
	settings := "\x01" + `{"MaxArgument":1000,"MaxResult":1000}`
	f.Add(framed(settings, "\x02\x01\x00\x00\x04echo\x00\x00\x03abc", "\x04\x01\x00", "\x07"))
	f.Add(framed(settings, "\x02\x01\x00\x00\x04echo\x00\x00\x06abc", "\x03\x01de", "\x03\x01f", "\x02\x02\x03\x05\x04echo\x03\x00\x00"))
	f.Add(framed(settings, "\x02\x01\x00\x00\x04read\x01\x00\x00", "\x06\x01\x00\x00abc", "\x06\x01\x00\x01", "\x05\x01\x00\x40"))
	f.Add(framed(settings, "\x02\x01\x00\x00\x05items\x00\x00\x00", "\x05\x01\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := pair(t)
		r := &call.Registry{}
		declare(t, r, "echo", func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
		declareStream(t, r, "items", func(_ context.Context, _ []byte, yield func([]byte) error) error { return yield([]byte("x")) })
		s := call.NewServer(r, b, call.NewLogs())
		served := make(chan error, 1)
		go func() { served <- s.Serve() }()
		go func() { _ = a.Serve(func([]byte) {}) }()
		for _, frame := range frames(data) {
			if a.Send(t.Context(), frame) != nil {
				break
			}
		}
		a.cut(errors.New("the end"))
		receive(t, served, "the server to end")
	})
}

// Whatever a runner says, its parent does not crash, and calls end when the link does.
func FuzzClient(f *testing.F) {
	f.Add(framed("\x0a\x01\x00\x00\x00\x03abc"[0:1]+"\x01\x00\x00\x00\x03abc", "\x08\x01"))
	f.Add(framed("\x09\x01\x00\x00\x00\x03abc", "\x0b\x01"))
	f.Add(framed("\x09\x01\x00\x01\x00\x03abc", "\x06\x01\x00\x00xyz", "\x06\x01\x00\x03oh", "\x0b\x01"))
	f.Add(framed("\x0a\x01\x00\x03abc", "\x0a\x01\x00\x04ab", "\x03\x01cd", "\x09\x01\x01\x00\x00\x02\x00\x00"))
	f.Add(framed("\x0c\x01\x80\x80\x80\x80\x80\x80\x80\xf8\x3fhalf", "\x09\x01\x02\x00\x00\x04\x01a\x01b", "\x0d\x01\x01f\x00\x02\x02\x01m\x00\x01\x01k\x07\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := pair(t)
		s := settings()
		s.MaxResult = 1000
		c, err := call.NewClient(t.Context(), a, s, &call.ClientOptions{Log: func(call.Record) {}})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Serve() }()
		go func() { _ = b.Serve(func([]byte) {}) }()
		k, err := c.Start(t.Context(), &call.Request{Function: "f", Progress: func(float64, string) {}})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for _, frame := range frames(data) {
				if b.Send(context.Background(), frame) != nil {
					break
				}
			}
			b.cut(errors.New("the end"))
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for more := true; more; {
			more, _ = k.Next(ctx, func(string, []byte) error { return nil })
		}
		if err := ctx.Err(); err != nil {
			t.Errorf("the call does not end: %v", err)
		}
		receive(t, ended, "the client to end")
	})
}
