package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// The limits of one request.
const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 4 << 20 // bytes of one answer
)

// wire is one HTTP/1.1 connection that is kept open. It is written by hand because the load generator shares the
// computer with what it measures: what the client costs is missing from the result. Not safe for concurrent use.
type wire struct {
	conn   net.Conn
	host   string
	in     *bufio.Reader
	out    []byte // the request, reused
	answer []byte // the body of the answer, reused
}

func dial(ctx context.Context, address string) (*wire, error) {
	conn, err := (&net.Dialer{Timeout: requestTimeout}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	return &wire{conn: conn, host: address, in: bufio.NewReaderSize(conn, 16<<10)}, nil
}

func (w *wire) close() { w.conn.Close() }

// do makes one request and returns the status and the body of the answer, which is valid until the next request.
// header is nothing or whole lines, each with its line end.
func (w *wire) do(method, path, header string, body []byte) (status int, answer []byte, err error) {
	if err := w.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	b := w.out[:0]
	b = append(append(append(b, method...), ' '), path...)
	b = append(append(b, " HTTP/1.1\r\nHost: "...), w.host...)
	b = append(append(b, "\r\n"...), header...)
	if body != nil {
		b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
		b = append(strconv.AppendInt(b, int64(len(body)), 10), "\r\n"...)
	}
	b = append(append(b, "\r\n"...), body...)
	w.out = b
	if _, err := w.conn.Write(b); err != nil {
		return 0, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	status, err = w.read()
	if err != nil {
		return 0, nil, fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return status, w.answer, nil
}

var errMalformed = errors.New("not an HTTP/1.1 answer")

// read reads one answer into w.answer.
func (w *wire) read() (status int, err error) {
	line, err := w.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, errMalformed
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, errMalformed
	}
	length, chunked := 0, false
	for {
		if line, err = w.in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return 0, errMalformed
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		}
	}
	w.answer = w.answer[:0]
	switch {
	case status == 204 || status == 304:
		return status, nil
	case chunked:
		return status, w.readChunks()
	default:
		return status, w.readBody(length)
	}
}

// readBody appends n bytes to w.answer.
func (w *wire) readBody(n int) error {
	have := len(w.answer)
	if n > maxAnswer-have {
		return fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	}
	if cap(w.answer) < have+n {
		w.answer = append(make([]byte, 0, have+n), w.answer...)
	}
	w.answer = w.answer[:have+n]
	_, err := io.ReadFull(w.in, w.answer[have:])
	return err
}

func (w *wire) readChunks() error {
	for {
		line, err := w.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		digits, _, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(";"))
		n, err := strconv.ParseUint(string(digits), 16, 31)
		if err != nil {
			return errMalformed
		}
		if n > 0 {
			if err := w.readBody(int(n)); err != nil {
				return err
			}
		}
		if _, err := w.in.ReadSlice('\n'); err != nil { // the end of the chunk, or of the trailers, of which there are none
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// idOf returns the first "id" of an answer. Decoding the whole JSON would cost the client as much as the server.
func idOf(answer []byte) (string, error) {
	for _, mark := range [][]byte{[]byte(`"id":"`), []byte(`"id": "`)} {
		if _, rest, found := bytes.Cut(answer, mark); found {
			if id, _, found := bytes.Cut(rest, []byte(`"`)); found {
				return string(id), nil
			}
		}
	}
	return "", fmt.Errorf("an answer without an id: %s", excerpt(answer))
}

// excerpt is enough of an answer for a message.
func excerpt(answer []byte) string {
	const most = 300
	if len(answer) > most {
		return string(answer[:most]) + "…"
	}
	return string(bytes.TrimSpace(answer))
}
