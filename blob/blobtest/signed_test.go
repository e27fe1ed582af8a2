package blobtest_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/blobtest"
	"github.com/dayfly-run/dayfly/fault"
)

// signer is a store in memory with a server that keeps to what was signed, except in the ways in which it is broken.
type signer struct {
	*memory
	server *httptest.Server

	ignoresMethod, ignoresKey, ignoresMAC, ignoresExpiry, ignoresHeaders, trimsHeaders, ignoresSize, ignoresChecksum bool
	keepsBroken, forgetsAnswer, forgetsChecksum, ignoresRanges, plusForSpace, signsAnything                          bool
}

// permit is what a URL permits. It is signed as it stands in the query.
type permit struct {
	Method, Key, Type, Disposition, SHA256 string
	Size                                   int64
	Expires                                int64
}

func signs(breakIt func(*signer)) func(t *testing.T) blob.Store {
	return func(t *testing.T) blob.Store {
		s := &signer{memory: newMemory()}
		breakIt(s)
		s.server = httptest.NewServer(http.HandlerFunc(s.serve))
		t.Cleanup(s.server.Close)
		return s
	}
}

func mac(text string) string {
	h := hmac.New(sha256.New, []byte("the key of the test"))
	io.WriteString(h, text)
	return hex.EncodeToString(h.Sum(nil))
}

func (s *signer) Sign(_ context.Context, method, key string, o *blob.SignOptions) (*blob.Signed, error) {
	if err := blob.CheckKey(key); err != nil {
		return nil, err
	}
	if o == nil {
		o = &blob.SignOptions{}
	}
	life := o.Life
	if life == 0 {
		life = time.Hour
	}
	raw, hexErr := hex.DecodeString(o.SHA256)
	switch {
	case s.signsAnything:
	case method != http.MethodGet && method != http.MethodPut:
		return nil, fmt.Errorf("signer: %w", fault.Unsupported)
	case life < blob.MinLife || life > blob.MaxLife || life%time.Second != 0 || o.Size < 0 || hexErr != nil || len(raw) != 0 && len(raw) != 32:
		return nil, fmt.Errorf("signer: %w", fault.Invalid)
	}
	expires := time.Now().Add(life)
	text, err := json.Marshal(permit{method, key, o.ContentType, o.ContentDisposition, o.SHA256, o.Size, expires.UnixNano()})
	if err != nil {
		return nil, err
	}
	query := url.Values{"permit": {string(text)}, "mac": {mac(string(text))}}
	path := "/" + strings.ReplaceAll(url.PathEscape(key), "%2F", "/")
	if s.plusForSpace {
		path = strings.ReplaceAll(path, "%20", "+")
	}
	headers := map[string]string{}
	if method == http.MethodPut {
		for field, value := range map[string]string{"Content-Type": o.ContentType, "Content-Disposition": o.ContentDisposition, "X-Sum": o.SHA256} {
			if value != "" {
				headers[field] = value
			}
		}
	}
	return &blob.Signed{Method: method, URL: s.server.URL + path + "?" + query.Encode(), Headers: headers, Expires: expires, Bound: true}, nil
}

func (s *signer) serve(w http.ResponseWriter, r *http.Request) {
	text := r.URL.Query().Get("permit")
	var p permit
	if json.Unmarshal([]byte(text), &p) != nil || !s.ignoresMAC && !hmac.Equal([]byte(mac(text)), []byte(r.URL.Query().Get("mac"))) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	key := strings.TrimPrefix(r.URL.Path, "/")
	if s.plusForSpace || s.ignoresKey {
		p.Key = key
	}
	if r.Method != p.Method && !s.ignoresMethod || key != p.Key || time.Now().UnixNano() > p.Expires && !s.ignoresExpiry {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.get(w, r, &p)
	case http.MethodPut:
		w.WriteHeader(s.put(r, &p))
	default:
		w.WriteHeader(http.StatusOK)
	}
}

func (s *signer) get(w http.ResponseWriter, r *http.Request, p *permit) {
	o, err := s.memory.get(r.Context(), p.Key)
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	kind, disposition, _ := strings.Cut(o.info.ContentType, "|")
	if p.Type != "" && !s.forgetsAnswer {
		kind, disposition = p.Type, p.Disposition
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Disposition", disposition)
	if s.ignoresRanges {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o.data))
}

func (s *signer) put(r *http.Request, p *permit) (status int) {
	kind, disposition := r.Header.Get("Content-Type"), r.Header.Get("Content-Disposition")
	same := func(signed, got string) bool {
		if s.trimsHeaders {
			signed, got = strings.ReplaceAll(signed, " ", ""), strings.ReplaceAll(got, " ", "")
		}
		return signed == "" || signed == got || s.ignoresHeaders
	}
	data, err := io.ReadAll(r.Body)
	sum := sha256.Sum256(data)
	hash := hex.EncodeToString(sum[:])
	switch {
	case !same(p.Type, kind), !same(p.Disposition, disposition):
		return http.StatusForbidden
	case err != nil && !s.keepsBroken, p.Size > 0 && p.Size != int64(len(data)) && !s.ignoresSize, p.SHA256 != "" && p.SHA256 != hash && !s.ignoresChecksum:
		return http.StatusBadRequest
	}
	if s.forgetsChecksum {
		hash = ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[p.Key] = object{blob.Info{Key: p.Key, Size: int64(len(data)), SHA256: hash, ContentType: kind + "|" + disposition, StoredAt: time.Now()}, data}
	return http.StatusCreated
}

// Stat takes the disposition away again, which is kept behind the type.
func (s *signer) Stat(ctx context.Context, key string) (*blob.Info, error) {
	info, err := s.memory.Stat(ctx, key)
	if err == nil {
		info.ContentType, _, _ = strings.Cut(info.ContentType, "|")
	}
	return info, err
}

func TestACorrectSignerPasses(t *testing.T) {
	t.Parallel()
	blobtest.Run(t, blobtest.Harness{New: signs(func(*signer) {})})
}

func TestKeysAreCheckedForAllStoresAlike(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"a", "a/b", ".", "a b", "ä", "%2F", "\x1b", strings.Repeat("x", blob.MaxKey)} {
		if err := blob.CheckKey(key); err != nil {
			t.Errorf("CheckKey(%.40q): got %v, want nil", key, err)
		}
	}
	for _, key := range []string{"", "/", "/a", "a/", "a//b", "a\x00", "\xff", strings.Repeat("x", blob.MaxKey+1)} {
		if err := blob.CheckKey(key); fault.Of(err) != fault.Invalid {
			t.Errorf("CheckKey(%s): got %v, want kind invalid", strconv.Quote(key[:min(len(key), 40)]), err)
		}
	}
}
