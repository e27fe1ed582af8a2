package link_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/link"
)

// knock connects to where an invitation leads.
func knock(t *testing.T, i *link.Invitation) net.Conn {
	t.Helper()
	network, address, _ := strings.Cut(i.Addresses[0], ":")
	if network == "unix" { // its path may be longer than one that can be dialed
		dir, err := os.Open(filepath.Dir(address))
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		address = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(address))
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// turnedAway waits until the other end closes a connection, and returns what it said before.
func turnedAway(t *testing.T, conn net.Conn) string {
	t.Helper()
	// A connection that proves nothing is closed after 10 s: none of these is to live that long.
	if err := conn.SetReadDeadline(time.Now().Add(8 * time.Second)); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err, ok := errors.AsType[net.Error](err); ok && err.Timeout() {
		t.Fatalf("the connection is still open; it said %q", said)
	}
	return string(said)
}

// joins checks that a runner can still join.
func joins(t *testing.T, guest *link.Guest, i *link.Invitation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	runner, err := link.Dial(ctx, i, hello())
	if err != nil {
		t.Fatalf("Dial of a runner with a proper invitation: %v", err)
	}
	parent, err := guest.Wait(ctx)
	if err != nil {
		t.Fatalf("Wait: %v", err)
	}
	go func() { _ = parent.Serve(func([]byte) {}) }()
	runner.Close(nil)
}

func TestWhoSpeaksAnotherProtocolIsTurnedAwayAtOnce(t *testing.T) {
	t.Parallel()
	huge := binary.BigEndian.AppendUint32([]byte("dayfly\x01"), 1<<31)
	for name, garbage := range map[string]string{
		"a browser":       "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
		"noise":           strings.Repeat("\xff\x00\x17", 1000),
		"a huge greeting": string(huge),
		"a bad greeting":  string(binary.BigEndian.AppendUint32([]byte("dayfly\x01"), 4)) + "nope",
		"nobody":          string(binary.BigEndian.AppendUint32([]byte("dayfly\x01"), 2)) + "{}",
	} {
		for way, prefix := range ways() {
			t.Run(name+" over "+way, func(t *testing.T) {
				t.Parallel()
				guest, i := expect(t, newHome(t, nil), "r", prefix)
				conn := knock(t, i)
				if _, err := conn.Write([]byte(garbage)); err != nil {
					t.Fatal(err)
				}
				turnedAway(t, conn)
				joins(t, guest, i)
			})
		}
	}
}

func TestAnotherVersionOfTheProtocolIsToldSo(t *testing.T) {
	t.Parallel()
	_, i := expect(t, newHome(t, nil), "r", "unix:")
	conn := knock(t, i)
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte("dayfly\x09"), 2)); err != nil {
		t.Fatal(err)
	}
	if said := turnedAway(t, conn); !strings.HasPrefix(said, "dayfly\x01") || !strings.Contains(said, "version 9") {
		t.Errorf("the answer to version 9: got %q, want a refusal that names it", said)
	}
}

func TestManyWhoConnectAndSayNothingKeepNoRunnerOut(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			guest, i := expect(t, newHome(t, nil), "r", way)
			first := knock(t, i)
			for range 1100 {
				knock(t, i)
			}
			turnedAway(t, first)
			joins(t, guest, i)
		})
	}
}

func TestARunnerBelievesOnlyTheKeyOfItsInvitation(t *testing.T) {
	t.Parallel()
	home := newHome(t, nil)
	_, i := expect(t, home, "r", "tcp:")
	_, other := expect(t, newHome(t, nil), "r", "tcp:")
	i.Addresses = other.Addresses
	if _, err := link.Dial(t.Context(), i, hello()); fault.Of(err) != fault.Denied {
		t.Errorf("Dial to who has another key: got %v, want denied", err)
	}
}

func TestARunnerWhoseParentIsGoneFindsOut(t *testing.T) {
	t.Parallel()
	for name, way := range ways() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, err := link.NewHome(hello(), &link.HomeOptions{Dir: t.TempDir() + "/home", Listen: "127.0.0.1:0"})
			if err != nil {
				t.Fatal(err)
			}
			guest, i := expect(t, home, "r", way)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := home.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := link.Dial(t.Context(), i, hello()); fault.Of(err) != fault.Unavailable {
				t.Errorf("Dial: got %v, want unavailable", err)
			}
			if _, err := guest.Wait(t.Context()); fault.Of(err) != fault.Unavailable {
				t.Errorf("Wait: got %v, want unavailable", err)
			}
			if _, err := home.Expect("late"); fault.Of(err) != fault.Unavailable {
				t.Errorf("Expect: got %v, want unavailable", err)
			}
		})
	}
}

func TestARunnerThatIsGivenUpIsRefused(t *testing.T) {
	t.Parallel()
	home := newHome(t, nil)
	guest, i := expect(t, home, "r", "unix:")
	if _, err := home.Expect("r"); fault.Of(err) != fault.Conflict {
		t.Errorf("Expect of an id that is expected: got %v, want a conflict", err)
	}
	reason := errors.New("it took too long")
	guest.Cancel(reason)
	if _, err := guest.Wait(t.Context()); !errors.Is(err, reason) {
		t.Errorf("Wait: got %v, want %v", err, reason)
	}
	if _, err := link.Dial(t.Context(), i, hello()); fault.Of(err) != fault.Unauthenticated {
		t.Errorf("Dial: got %v, want unauthenticated", err)
	}
	again, err := home.Expect("r")
	if err != nil {
		t.Fatalf("Expect of an id that was given up: %v", err)
	}
	fresh := again.Invitation()
	joins(t, again, &fresh)
}

func TestAHomeLivesInADirectoryOfAnyLengthThatIsClosedToOthers(t *testing.T) {
	t.Parallel()
	long := filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 15))
	guest, i := expect(t, newHome(t, &link.HomeOptions{Dir: long}), "r", "unix:")
	joins(t, guest, i)

	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := link.NewHome(hello(), &link.HomeOptions{Dir: open}); fault.Of(err) != fault.Denied {
		t.Errorf("NewHome in a directory that others can enter: got %v, want denied", err)
	}
}

func TestAnInvitationSurvivesTheEnvironmentAndKeepsItsSecret(t *testing.T) {
	t.Parallel()
	_, i := expect(t, newHome(t, nil), "r", "tcp:")
	got, err := link.ParseInvitation(i.Encode())
	if err != nil || got.ID != i.ID || got.Token != i.Token || got.Addresses[0] != i.Addresses[0] || got.Pin != i.Pin {
		t.Errorf("ParseInvitation of what was encoded: got %v and %v, want %v", got, err, i)
	}
	if text := i.String(); strings.Contains(text, i.Token) {
		t.Errorf("String: got %q, which holds the token", text)
	}
	for name, word := range map[string]string{
		"nothing": "", "no base64": "%%%", "no JSON": "bm9wZQ", "cut short": i.Encode()[:40], "empty": "e30",
	} {
		if _, err := link.ParseInvitation(word); fault.Of(err) != fault.Invalid {
			t.Errorf("ParseInvitation of %s: got %v, want invalid", name, err)
		}
	}
}
