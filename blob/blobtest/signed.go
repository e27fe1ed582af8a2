package blobtest

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// runSigned tries a store as a signer.
func runSigned(t *testing.T, h Harness) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, h Harness, s signing)
	}{
		{"AGetReturnsTheObjectAndItsParts", signedGet},
		{"AGetIsAnsweredWithTheTypeThatWasSigned", signedAnswer},
		{"APutStoresTheObject", signedPut},
		{"APutThatSaysNothingTakesAnything", signedAnything},
		{"APutIsBoundToExactHeaders", boundHeaders},
		{"APutIsBoundToTheSize", boundSize},
		{"APutIsBoundToTheChecksum", boundChecksum},
		{"APutThatBreaksOffLeavesNothing", brokenUpload},
		{"AnExpiredRequestIsRefused", expired},
		{"AForgedRequestIsRefused", forged},
		{"ARequestIsForOneMethodAndKey", oneThing},
		{"KeysOfAllFormsCanBeSigned", signedKeys},
		{"WhatCannotBeSignedIsRefused", notSigned},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := h.New(t)
			c.run(t, h, signing{s, s.(blob.Signer)})
		})
	}
}

// signing is a store that signs.
type signing struct {
	blob.Store
	blob.Signer
}

func (s signing) sign(t *testing.T, method, key string, o *blob.SignOptions) *blob.Signed {
	t.Helper()
	signed, err := s.Sign(t.Context(), method, key, o)
	if err != nil {
		t.Fatalf("Sign %s %q: %v", method, key, err)
	}
	if u, err := url.Parse(signed.URL); err != nil || u.Host == "" || signed.Method != method {
		t.Fatalf("Sign %s %q: got the method %s and a URL that is %v; want the method and a whole URL", method, key, signed.Method, err)
	}
	if left := time.Until(signed.Expires); left <= 0 || left > blob.MaxLife+time.Minute {
		t.Errorf("Sign %s %q: expires in %v, want a time to come within %v", method, key, left, blob.MaxLife)
	}
	return signed
}

// reply is an answer, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// do makes a request as a stranger would, with the headers that were signed unless others are given.
func do(t *testing.T, method, target string, headers map[string]string, body io.Reader) (*reply, error) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, target, body)
	if err != nil {
		t.Fatal(err)
	}
	for field, value := range headers {
		request.Header.Set(field, value)
		if length, err := strconv.ParseInt(value, 10, 64); field == "Content-Length" && err == nil && request.ContentLength < 0 {
			request.ContentLength = length
		}
	}
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer to %s: %v", method, err)
	}
	return &reply{response.StatusCode, response.Header, data}, nil
}

func mustDo(t *testing.T, method, target string, headers map[string]string, body []byte) *reply {
	t.Helper()
	r, err := do(t, method, target, headers, bytes.NewReader(body))
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return r
}

func (r *reply) ok() bool { return r.status >= 200 && r.status <= 299 }

// wantRefused wants the request to have been refused by the backend, which is not to have failed.
func (r *reply) wantRefused(t *testing.T, what string) {
	t.Helper()
	if r.status < 400 || r.status > 499 {
		t.Errorf("%s: got status %d, want a refusal (4xx): %.200q", what, r.status, r.body)
	}
}

func signedGet(t *testing.T, _ Harness, s signing) {
	data := content(300<<10, 20)
	put(t, s, "a/b.bin", data)
	signed := s.sign(t, http.MethodGet, "a/b.bin", nil)
	for range 2 { // it is good more than once
		r := mustDo(t, http.MethodGet, signed.URL, signed.Headers, nil)
		if r.status != http.StatusOK || !bytes.Equal(r.body, data) {
			t.Errorf("GET: got status %d and %d bytes, want 200 and the %d that were put", r.status, len(r.body), len(data))
		}
	}
	headers := map[string]string{"Range": "bytes=1000-200000"}
	maps.Copy(headers, signed.Headers)
	r := mustDo(t, http.MethodGet, signed.URL, headers, nil)
	if r.status != http.StatusPartialContent || !bytes.Equal(r.body, data[1000:200001]) {
		t.Errorf("GET of a range: got status %d and %d bytes, want 206 and those 199001", r.status, len(r.body))
	}
	none := s.sign(t, http.MethodGet, "nobody/put/this", nil)
	if r := mustDo(t, http.MethodGet, none.URL, none.Headers, nil); r.status != http.StatusNotFound {
		t.Errorf("GET of what is not there: got status %d, want 404", r.status)
	}
}

func signedAnswer(t *testing.T, _ Harness, s signing) {
	put(t, s, "k", []byte("x"))
	const kind, name = "text/csv; charset=utf-8", `attachment; filename="a b, c.csv"; filename*=UTF-8''a%20b%2C%20%C3%A4.csv`
	signed := s.sign(t, http.MethodGet, "k", &blob.SignOptions{ContentType: kind, ContentDisposition: name})
	r := mustDo(t, http.MethodGet, signed.URL, signed.Headers, nil)
	if got, gotName := r.header.Get("Content-Type"), r.header.Get("Content-Disposition"); r.status != http.StatusOK || got != kind || gotName != name {
		t.Errorf("GET: got status %d, type %q and disposition %q; want 200, %q and %q", r.status, got, gotName, kind, name)
	}
}

// The type and disposition of what the signed PUTs of this file store.
const (
	wavType = "audio/wav"
	wavName = "attachment;filename=in.wav"
)

func signedPut(t *testing.T, _ Harness, s signing) {
	for name, n := range map[string]int{"small": 1000, "large": 3 << 20} {
		data := content(n, 21)
		o := &blob.SignOptions{ContentType: wavType, ContentDisposition: wavName, Size: int64(n), SHA256: hash(data)}
		signed := s.sign(t, http.MethodPut, name, o)
		wantAbsent(t, s, name)
		for range 2 { // an upload whose answer was lost is sent again
			if r := mustDo(t, http.MethodPut, signed.URL, signed.Headers, data); !r.ok() {
				t.Fatalf("PUT: got status %d, want it stored: %.300q", r.status, r.body)
			}
		}
		wantBytes(t, s, name, data)
		info, err := s.Stat(t.Context(), name)
		if err != nil || info.Size != int64(n) || info.ContentType != wavType || info.SHA256 != hash(data) {
			t.Errorf("Stat: got %+v, %v; want %d bytes of %s with their checksum", info, err, n, wavType)
		}
		get := s.sign(t, http.MethodGet, name, nil)
		r := mustDo(t, http.MethodGet, get.URL, get.Headers, nil)
		if got := r.header.Get("Content-Disposition"); got != wavName {
			t.Errorf("GET of what was put with a disposition: got %q, want %q", got, wavName)
		}
	}
}

func signedAnything(t *testing.T, _ Harness, s signing) {
	data := content(1234, 22)
	signed := s.sign(t, http.MethodPut, "k", nil)
	headers := map[string]string{"Content-Type": "text/plain"}
	maps.Copy(headers, signed.Headers)
	if r := mustDo(t, http.MethodPut, signed.URL, headers, data); !r.ok() {
		t.Fatalf("PUT: got status %d, want it stored: %.300q", r.status, r.body)
	}
	wantBytes(t, s, "k", data)
	info, err := s.Stat(t.Context(), "k")
	if err != nil || info.Size != 1234 || info.ContentType != "text/plain" || info.SHA256 != "" && info.SHA256 != hash(data) {
		t.Errorf("Stat: got %+v, %v; want 1234 bytes of text/plain, and no checksum that is not theirs", info, err)
	}
}

// wantStranger makes a PUT that is not what was signed. A bound store refuses it and keeps nothing; another may keep it, and
// Stat tells what has come.
func (s signing) wantStranger(t *testing.T, what, key string, signed *blob.Signed, headers map[string]string, data []byte) {
	t.Helper()
	r, err := do(t, http.MethodPut, signed.URL, headers, bytes.NewReader(data))
	if !signed.Bound {
		if err != nil || !r.ok() {
			return
		}
		info, err := s.Stat(t.Context(), key)
		if err != nil || info.Size != int64(len(data)) || info.ContentType != headers["Content-Type"] && headers["Content-Type"] != "" {
			t.Errorf("after %s, Stat says %+v, %v; want what has come: %d bytes of %s", what, info, err, len(data), headers["Content-Type"])
		}
		return
	}
	if err == nil {
		r.wantRefused(t, what)
	}
	wantAbsent(t, s, key)
}

func boundHeaders(t *testing.T, _ Harness, s signing) {
	data := content(100, 23)
	for name, change := range map[string]func(headers map[string]string){
		"another type":             func(h map[string]string) { h["Content-Type"] = "text/html" },
		"a longer type":            func(h map[string]string) { h["Content-Type"] = wavType + "; x=1" },
		"no type":                  func(h map[string]string) { delete(h, "Content-Type") },
		"another disposition":      func(h map[string]string) { h["Content-Disposition"] = "inline" },
		"a space in a disposition": func(h map[string]string) { h["Content-Disposition"] = "attachment; filename=in.wav" },
		"no disposition":           func(h map[string]string) { delete(h, "Content-Disposition") },
	} {
		key := strings.ReplaceAll(name, " ", "-")
		signed := s.sign(t, http.MethodPut, key, &blob.SignOptions{ContentType: wavType, ContentDisposition: wavName})
		headers := maps.Clone(signed.Headers)
		change(headers)
		s.wantStranger(t, "a PUT with "+name, key, signed, headers, data)
	}
}

func boundSize(t *testing.T, _ Harness, s signing) {
	for name, n := range map[string]int{"more": 1001, "less": 999, "none": 0, "much-more": 3 << 20} {
		signed := s.sign(t, http.MethodPut, name, &blob.SignOptions{Size: 1000})
		headers := maps.Clone(signed.Headers)
		delete(headers, "Content-Length") // the body's is sent
		s.wantStranger(t, "a PUT of "+strconv.Itoa(n)+" bytes where 1000 were signed", name, signed, headers, content(n, 24))
	}
}

func boundChecksum(t *testing.T, _ Harness, s signing) {
	right, wrong := content(1000, 25), content(1000, 26)
	o := &blob.SignOptions{Size: 1000, SHA256: hash(right)}
	signed := s.sign(t, http.MethodPut, "k", o)
	s.wantStranger(t, "a PUT of other bytes than were signed", "k", signed, signed.Headers, wrong)
	if !signed.Bound {
		return
	}
	other, err := s.Sign(t.Context(), http.MethodPut, "k", &blob.SignOptions{Size: 1000, SHA256: hash(wrong)})
	if err != nil {
		t.Fatal(err)
	}
	s.wantStranger(t, "a PUT with the checksum of other bytes than were signed", "k", signed, other.Headers, wrong)
	if r := mustDo(t, http.MethodPut, signed.URL, signed.Headers, right); !r.ok() {
		t.Errorf("a PUT of the right bytes after the wrong ones: got status %d, want it stored: %.300q", r.status, r.body)
	}
	s.wantRightStays(t, signed, right, wrong)
}

// wantRightStays tries to replace what has been stored by other bytes.
func (s signing) wantRightStays(t *testing.T, signed *blob.Signed, right, wrong []byte) {
	t.Helper()
	if r, err := do(t, http.MethodPut, signed.URL, signed.Headers, bytes.NewReader(wrong)); err == nil {
		r.wantRefused(t, "a PUT of other bytes over the right ones")
	}
	wantBytes(t, s, "k", right)
}

func brokenUpload(t *testing.T, _ Harness, s signing) {
	for _, n := range []int{0, 1000, 300 << 10} {
		signed := s.sign(t, http.MethodPut, "k", nil)
		headers := map[string]string{"Content-Length": "400000"}
		maps.Copy(headers, signed.Headers)
		body := io.MultiReader(bytes.NewReader(content(n, 27)), iotest.ErrReader(errors.New("the line was cut")))
		if r, err := do(t, http.MethodPut, signed.URL, headers, struct{ io.Reader }{body}); err == nil && r.ok() {
			t.Errorf("a PUT that breaks off after %d of 400000 bytes: got status %d, want no success", n, r.status)
		}
		wantAbsent(t, s, "k")
	}
}

func expired(t *testing.T, _ Harness, s signing) {
	put(t, s, "old", []byte("x"))
	get := s.sign(t, http.MethodGet, "old", &blob.SignOptions{Life: blob.MinLife})
	put := s.sign(t, http.MethodPut, "new", &blob.SignOptions{Life: blob.MinLife})
	longer := s.sign(t, http.MethodGet, "old", &blob.SignOptions{Life: time.Hour})
	// It is asked until it is refused, because the backend's clock decides.
	for begin := time.Now(); ; {
		r := mustDo(t, http.MethodGet, get.URL, get.Headers, nil)
		if !r.ok() {
			r.wantRefused(t, "an expired GET")
			break
		}
		if waited := time.Since(begin); waited > 5*time.Second {
			t.Fatalf("a GET signed for a second is good for %v", waited)
		}
		<-time.After(50 * time.Millisecond)
	}
	mustDo(t, http.MethodPut, put.URL, put.Headers, []byte("y")).wantRefused(t, "an expired PUT")
	wantAbsent(t, s, "new")
	if r := mustDo(t, http.MethodGet, longer.URL, longer.Headers, nil); !r.ok() {
		t.Errorf("a GET signed for an hour: got status %d after a second, want success", r.status)
	}
}

// forged changes, and removes, each part of the query: all of them are signed, or are the signature.
func forged(t *testing.T, _ Harness, s signing) {
	put(t, s, "secret", []byte("x"))
	get := s.sign(t, http.MethodGet, "secret", &blob.SignOptions{ContentType: "text/plain", ContentDisposition: "inline"})
	write := s.sign(t, http.MethodPut, "new", &blob.SignOptions{ContentType: wavType})
	for _, signed := range []*blob.Signed{get, write} {
		u, err := url.Parse(signed.URL)
		if err != nil {
			t.Fatal(err)
		}
		query := u.Query()
		if len(query) == 0 {
			t.Fatalf("the URL of a signed %s has no query", signed.Method)
		}
		for _, name := range slices.Sorted(maps.Keys(query)) {
			for what, value := range map[string]string{"removed": "", "changed": other(query.Get(name))} {
				changed := maps.Clone(query)
				if changed.Set(name, value); value == "" {
					changed.Del(name)
				}
				u.RawQuery = strings.ReplaceAll(changed.Encode(), "+", "%20")
				mustDo(t, signed.Method, u.String(), signed.Headers, []byte("y")).wantRefused(t, "a "+signed.Method+" with "+name+" "+what)
			}
		}
		u.RawQuery = ""
		mustDo(t, signed.Method, u.String(), signed.Headers, []byte("y")).wantRefused(t, "a "+signed.Method+" without any signature")
	}
	wantAbsent(t, s, "new")
	wantBytes(t, s, "secret", []byte("x"))
}

// other returns a text of the same form that differs in one character.
func other(text string) string {
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '1' && c <= '8', c >= 'a' && c <= 'y', c >= 'A' && c <= 'Y':
			return text[:i] + string(c+1) + text[i+1:]
		}
	}
	return text + "1"
}

func oneThing(t *testing.T, _ Harness, s signing) {
	put(t, s, "a", []byte("a"))
	put(t, s, "b", []byte("b"))
	get := s.sign(t, http.MethodGet, "a", nil)
	write := s.sign(t, http.MethodPut, "c", nil)
	mustDo(t, http.MethodPut, get.URL, write.Headers, []byte("y")).wantRefused(t, "a PUT with the URL of a GET")
	mustDo(t, http.MethodDelete, get.URL, nil, nil).wantRefused(t, "a DELETE with the URL of a GET")
	mustDo(t, http.MethodDelete, write.URL, nil, nil).wantRefused(t, "a DELETE with the URL of a PUT")
	mustDo(t, http.MethodGet, write.URL, nil, nil).wantRefused(t, "a GET with the URL of a PUT")
	for _, signed := range []*blob.Signed{get, write} {
		u, err := url.Parse(signed.URL)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{u.Path[:len(u.Path)-1] + "b", u.Path + "b", u.Path + "/b", u.Path[:len(u.Path)-2]} {
			elsewhere := *u
			elsewhere.Path, elsewhere.RawPath = path, ""
			mustDo(t, signed.Method, elsewhere.String(), signed.Headers, []byte("y")).wantRefused(t, "a "+signed.Method+" with the URL of another key")
		}
	}
	wantBytes(t, s, "a", []byte("a"))
	wantBytes(t, s, "b", []byte("b"))
	wantAbsent(t, s, "c")
}

func signedKeys(t *testing.T, h Harness, s signing) {
	for _, key := range h.held([]string{
		"a b", "a+b", "a%2Fb", "a%20b", "?x=1&y", "#", "a:b", "a@b", "a,b;c", "$(a)", "~o/'(x)!*", "ä/日本語/🦋.wav", "x/.hidden", "a=b/c&d", "[a]/{b}", "<a>", "\"",
	}) {
		data := []byte("of " + key)
		write := s.sign(t, http.MethodPut, key, nil)
		if r := mustDo(t, http.MethodPut, write.URL, write.Headers, data); !r.ok() {
			t.Errorf("PUT of %q: got status %d, want it stored: %.300q", key, r.status, r.body)
			continue
		}
		wantBytes(t, s, key, data)
		get := s.sign(t, http.MethodGet, key, nil)
		if r := mustDo(t, http.MethodGet, get.URL, get.Headers, nil); !r.ok() || !bytes.Equal(r.body, data) {
			t.Errorf("GET of %q: got status %d and %q, want what was put", key, r.status, r.body)
		}
	}
}

func notSigned(t *testing.T, _ Harness, s signing) {
	for _, method := range []string{"", "get", http.MethodPost, http.MethodDelete, http.MethodHead} {
		_, err := s.Sign(t.Context(), method, "k", nil)
		wantKind(t, "Sign with the method "+method, err, fault.Unsupported)
	}
	for name, o := range map[string]blob.SignOptions{
		"a life of half a second": {Life: 500 * time.Millisecond}, "a negative life": {Life: -time.Hour},
		"too long a life": {Life: blob.MaxLife + time.Second}, "a life of one and a half seconds": {Life: 1500 * time.Millisecond},
		"a negative size": {Size: -1}, "a checksum that is none": {SHA256: "abc"}, "a checksum that is no hex": {SHA256: strings.Repeat("x", 64)},
	} {
		_, err := s.Sign(t.Context(), http.MethodPut, "k", &o)
		wantKind(t, "Sign with "+name, err, fault.Invalid)
	}
	for _, key := range []string{"", "/a", "a/", "a//b", "a\x00b"} {
		_, err := s.Sign(t.Context(), http.MethodGet, key, nil)
		wantKind(t, "Sign with the key "+strconv.Quote(key), err, fault.Invalid)
	}
}
