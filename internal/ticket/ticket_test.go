package ticket_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/ticket"
)

const attempt = "att_01jd8k3m"

func TestATokenOpensItsOwnAttemptAndFenceOnly(t *testing.T) {
	t.Parallel()
	key, other := ticket.NewKey(), ticket.NewKey()

	got, fence, err := key.CheckSession(key.Session(attempt, 7))
	if got != attempt || fence != 7 || err != nil {
		t.Errorf("CheckSession of a genuine token: got %q, %d, %v; want %q, 7, nil", got, fence, err, attempt)
	}
	if !key.CheckBootstrap(key.Bootstrap(attempt), attempt) {
		t.Error("CheckBootstrap of a genuine token: got false, want true")
	}
	if first, again := key.Bootstrap(attempt), key.Bootstrap(attempt); first != again {
		t.Error("two bootstrap tokens of one attempt differ; want the same, so that a create can be repeated unchanged")
	}

	genuine := key.Session(attempt, 7)
	for name, token := range map[string]string{
		"empty":                   "",
		"another installation's":  other.Session(attempt, 7),
		"the fence raised":        strings.Replace(genuine, ".7_", ".8_", 1),
		"the job's own token":     key.Job(attempt, 7),
		"the bootstrap token":     key.Bootstrap(attempt),
		"cut short":               genuine[:len(genuine)-1],
		"with a NUL":              genuine + "\x00",
		"a job token renamed":     strings.Replace(key.Job(attempt, 7), "dfj_", "dfs_", 1),
		"an overlong fence":       "dfs_" + attempt + ".99999999999999999999_x",
		"no fence":                "dfs_" + attempt + "_x",
		"a very long token":       "dfs_" + strings.Repeat("a", 1<<16),
		"another attempt's token": strings.Replace(genuine, attempt, "att-other", 1),
	} {
		if _, _, err := key.CheckSession(token); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("CheckSession of a token that is %s: got error %v, want fault.Unauthenticated", name, err)
		}
	}
	if key.CheckBootstrap(key.Bootstrap(attempt), "att-other") {
		t.Error("CheckBootstrap for another attempt: got true, want false")
	}
}

func TestASignedURLPermitsOneMethodOnOneKeyUntilItExpires(t *testing.T) {
	t.Parallel()
	key := ticket.NewKey()
	now := time.Unix(1_000_000, 0)
	file := ticket.File{Method: "PUT", Key: "inputs/job-1/a b.wav", Expires: now.Add(time.Minute), Limit: 100, ContentType: "audio/wav"}
	query, err := url.ParseQuery(key.Query(file))
	if err != nil {
		t.Fatal(err)
	}

	got, err := key.CheckFile("PUT", file.Key, query, now)
	if err != nil || got.Limit != 100 || got.ContentType != "audio/wav" {
		t.Fatalf("CheckFile of a genuine URL: got %+v, %v; want the permission as signed", got, err)
	}

	changed := func(param, value string) url.Values {
		q, _ := url.ParseQuery(query.Encode())
		q.Set(param, value)
		return q
	}
	for name, try := range map[string]struct {
		method, key string
		query       url.Values
		now         time.Time
	}{
		"another method":       {"GET", file.Key, query, now},
		"another key":          {"PUT", file.Key + "x", query, now},
		"after it has expired": {"PUT", file.Key, query, now.Add(time.Minute + time.Second)},
		"a later expiry":       {"PUT", file.Key, changed("expires", "9999999999"), now},
		"a higher limit":       {"PUT", file.Key, changed("limit", "101"), now},
		"another type":         {"PUT", file.Key, changed("type", "text/html"), now},
		"a forged signature":   {"PUT", file.Key, changed("signature", "AAAA"), now},
		"no signature":         {"PUT", file.Key, changed("signature", ""), now},
		"another name":         {"PUT", file.Key, changed("name", "x.exe"), now},
		"another place":        {"PUT", file.Key, changed("here", "1"), now},
	} {
		if _, err := key.CheckFile(try.method, try.key, try.query, try.now); !errors.Is(err, fault.Denied) {
			t.Errorf("CheckFile with %s: got error %v, want fault.Denied", name, err)
		}
	}
}

func TestTheKeyIsMadeOnceAndNeverPrinted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	first, err := ticket.LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := ticket.LoadKey(file)
	if err != nil {
		t.Fatal(err)
	}
	if first.Bootstrap(attempt) != second.Bootstrap(attempt) {
		t.Error("a key loaded again signs differently; want the key that was kept")
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode of the key file: got %o, want 600", mode)
	}
	secret, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if text := fmt.Sprintf(format, first); strings.Contains(text, strings.TrimSpace(string(secret))) || !strings.Contains(text, "redacted") {
			t.Errorf("a key printed with %s: got %s, want [redacted]", format, text)
		}
	}

	if err := os.WriteFile(file, []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ticket.LoadKey(file); !errors.Is(err, fault.Invalid) {
		t.Errorf("LoadKey of a spoilt file: got %v, want fault.Invalid", err)
	}
}

func TestATokenIsGenuineUnderItsOwnKeyOnly(t *testing.T) {
	t.Parallel()
	key, other := ticket.NewKey(), ticket.NewKey()
	for name, token := range map[string]string{
		"bootstrap": key.Bootstrap("att_1"), "session": key.Session("att_1", 2), "job": key.Job("att_1", 2),
	} {
		if !key.Genuine(token) || other.Genuine(token) {
			t.Errorf("%s token: got genuine = %v, and %v under another key; want true and false", name, key.Genuine(token), other.Genuine(token))
		}
		for _, wrong := range []string{token[:len(token)-1], token[:5], token + "x", "", "dfy_" + token, strings.Replace(token, "att_1", "att_2", 1)} {
			if key.Genuine(wrong) {
				t.Errorf("%s token changed to %q counts as genuine", name, wrong)
			}
		}
	}
}
