// Package ticket makes and checks the small signed authorities that Dayfly hands out: the tokens of attempts and the
// URLs by which files go in and out.
//
// Tickets are not stored. Each is an HMAC-SHA256, under the installation's one key, over what it permits; checking it
// is computing it again. That keeps token writes off every job's path, and it makes a retried create byte-identical
// without keeping the secret of the first: the same attempt always has the same bootstrap token.
package ticket

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dayfly-run/dayfly/fault"
)

// Key is the installation's signing key. It prints as [redacted] whatever the format.
type Key struct{ secret [32]byte }

// String returns "[redacted]".
func (Key) String() string { return "[redacted]" }

// GoString returns "[redacted]".
func (Key) GoString() string { return "[redacted]" }

// MarshalJSON writes "[redacted]".
func (Key) MarshalJSON() ([]byte, error) { return []byte(`"[redacted]"`), nil }

// NewKey returns a random key.
func NewKey() Key {
	var k Key
	rand.Read(k.secret[:]) // never fails: see crypto/rand
	return k
}

// LoadKey reads the key kept in the file, making the file (mode 0600) with a random key if there is none. Two callers
// that race for a missing file get the same key. fault.Invalid if the file does not hold a key.
func LoadKey(file string) (Key, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(file)
	}
	if err != nil {
		return Key{}, fmt.Errorf("ticket: reading the signing key: %w", err)
	}
	return parseKey(file, data)
}

func parseKey(file string, data []byte) (Key, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimSpace(string(data)))
	var k Key
	if err != nil || len(raw) != len(k.secret) {
		return Key{}, fmt.Errorf("ticket: %w: %s does not hold a signing key; restore it from a backup, or remove it to "+
			"make a new one, which ends the authority of every running machine and of every URL handed out", fault.Invalid, file)
	}
	copy(k.secret[:], raw)
	return k, nil
}

// createKey writes the key beside its place and links it there, so that the file is whole the moment it has its name
// and the first of several processes wins.
func createKey(file string) (Key, error) {
	k := NewKey()
	temp, err := os.CreateTemp(filepath.Dir(file), ".key-*")
	if err != nil {
		return Key{}, fmt.Errorf("ticket: making the signing key: %w", err)
	}
	defer os.Remove(temp.Name())
	_, err = temp.WriteString(base64.RawURLEncoding.EncodeToString(k.secret[:]) + "\n")
	if err := errors.Join(err, temp.Sync(), temp.Close()); err != nil {
		return Key{}, fmt.Errorf("ticket: writing the signing key: %w", err)
	}
	if err := os.Link(temp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return Key{}, fmt.Errorf("ticket: keeping the signing key: %w", err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return Key{}, fmt.Errorf("ticket: reading the signing key: %w", err)
	}
	return parseKey(file, data)
}

// sign returns the MAC of the parts. The purpose keeps a ticket of one kind from passing as another; the lengths keep
// ("ab","c") from passing as ("a","bc").
func (k Key) sign(purpose string, parts ...string) []byte {
	mac := hmac.New(sha256.New, k.secret[:])
	fmt.Fprintf(mac, "%d:%s", len(purpose), purpose)
	for _, p := range parts {
		fmt.Fprintf(mac, "%d:%s", len(p), p)
	}
	return mac.Sum(nil)
}

// The prefixes tell a person, or a scanner for leaked secrets, what a token is.
const (
	bootstrapPrefix = "dfb_" // claims one attempt
	sessionPrefix   = "dfs_" // speaks for one claim of one attempt
	jobPrefix       = "dfj_" // what a running command may do for itself
	runnerPrefix    = "dfr_" // speaks for the machine of a fleet's runner
)

const (
	macLength = len("_") + (sha256.Size*8+5)/6 // of the end of a token: its MAC in base64
	maxToken  = 256
)

// Bootstrap returns the token that claims the attempt. It is the same each time.
func (k Key) Bootstrap(attempt string) string {
	return bootstrapPrefix + attempt + "_" + encode(k.sign("bootstrap", attempt))
}

// Session returns the token that speaks for the attempt's claim with this fence.
func (k Key) Session(attempt string, fence int64) string {
	return k.fenced(sessionPrefix, attempt, fence)
}

// Job returns the token that the attempt's command is given.
func (k Key) Job(attempt string, fence int64) string { return k.fenced(jobPrefix, attempt, fence) }

// Runner returns the token by which the runner on a machine of that name proves itself. It is the same each time.
func (k Key) Runner(machine string) string {
	return runnerPrefix + machine + "_" + encode(k.sign("runner", machine))
}

// CheckRunner reports whether the token is that of the runner on the machine.
func (k Key) CheckRunner(token, machine string) bool {
	return len(token) <= maxToken && hmac.Equal([]byte(token), []byte(k.Runner(machine)))
}

func (k Key) fenced(prefix, attempt string, fence int64) string {
	f := strconv.FormatInt(fence, 10)
	return prefix + attempt + "." + f + "_" + encode(k.sign(prefix, attempt, f))
}

// IsAttemptToken reports whether the token has the form of one of this package's tokens, genuine or not.
func IsAttemptToken(token string) bool {
	return strings.HasPrefix(token, bootstrapPrefix) || strings.HasPrefix(token, sessionPrefix) || strings.HasPrefix(token, jobPrefix)
}

// Genuine reports whether one of this package's tokens has this key's signature, whatever it is for.
func (k Key) Genuine(token string) bool {
	if body, ok := strings.CutPrefix(token, bootstrapPrefix); ok {
		end := len(body) - macLength
		return end >= 0 && len(token) <= maxToken && k.CheckBootstrap(token, body[:end])
	}
	_, _, session := k.CheckSession(token)
	_, _, job := k.CheckJob(token)
	return session == nil || job == nil
}

// CheckBootstrap reports whether the token is the bootstrap token of the attempt.
func (k Key) CheckBootstrap(token, attempt string) bool {
	return hmac.Equal([]byte(token), []byte(k.Bootstrap(attempt)))
}

// CheckSession returns the attempt and fence a session token speaks for; fault.Unauthenticated if it is not genuine.
func (k Key) CheckSession(token string) (attempt string, fence int64, err error) {
	return k.check(sessionPrefix, token)
}

// CheckJob returns the attempt and fence a command's token speaks for; fault.Unauthenticated if it is not genuine.
func (k Key) CheckJob(token string) (attempt string, fence int64, err error) {
	return k.check(jobPrefix, token)
}

func (k Key) check(prefix, token string) (string, int64, error) {
	refused := fault.Say(fault.Unauthenticated, "this token is not one of this server's")
	body, ok := strings.CutPrefix(token, prefix)
	// The MAC has a fixed length, so what it signs is found from the end, whatever characters an id may hold.
	end := len(body) - macLength
	if !ok || end < 0 || len(token) > maxToken {
		return "", 0, refused
	}
	attempt, number, _ := strings.Cut(body[:end], ".")
	fence, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return "", 0, refused
	}
	if !hmac.Equal([]byte(token), []byte(k.fenced(prefix, attempt, fence))) {
		return "", 0, refused
	}
	return attempt, fence, nil
}

// File is the permission to do one thing to one object, once or more, until it expires.
type File struct {
	Method      string    // "GET" or "PUT"
	Key         string    // of the object
	Expires     time.Time // whole seconds
	Limit       int64     // PUT: bytes at most; 0 for GET
	ContentType string    // PUT: exactly this type if not ""
	Name        string    // GET: the file name to offer, or ""
	Here        bool      // GET: answered by the server, which sends nobody on to where the object is kept
}

// The query parameters of a signed URL.
const (
	paramExpires = "expires"
	paramLimit   = "limit"
	paramType    = "type"
	paramName    = "name"
	paramHere    = "here"
	paramMAC     = "signature"
)

// Query returns the query string that carries the permission, to be put behind the URL of the object's key.
func (k Key) Query(f File) string {
	q := url.Values{paramExpires: {strconv.FormatInt(f.Expires.Unix(), 10)}}
	if f.Limit > 0 {
		q.Set(paramLimit, strconv.FormatInt(f.Limit, 10))
	}
	if f.ContentType != "" {
		q.Set(paramType, f.ContentType)
	}
	if f.Name != "" {
		q.Set(paramName, f.Name)
	}
	if f.Here {
		q.Set(paramHere, "1")
	}
	q.Set(paramMAC, encode(k.signFile(f)))
	return q.Encode()
}

// CheckFile returns the permission carried by the query for this method and key at this time. fault.Denied, with a
// sentence, if the signature is not genuine (which includes another method or key) or the URL has expired.
func (k Key) CheckFile(method, key string, query url.Values, now time.Time) (*File, error) {
	expires, err1 := strconv.ParseInt(query.Get(paramExpires), 10, 64)
	f := File{Method: method, Key: key, Expires: time.Unix(expires, 0), ContentType: query.Get(paramType), Name: query.Get(paramName),
		Here: query.Get(paramHere) == "1"}
	var err2 error
	if l := query.Get(paramLimit); l != "" {
		f.Limit, err2 = strconv.ParseInt(l, 10, 64)
	}
	mac, err3 := base64.RawURLEncoding.DecodeString(query.Get(paramMAC))
	if errors.Join(err1, err2, err3) != nil || !hmac.Equal(mac, k.signFile(f)) {
		return nil, fault.Say(fault.Denied, "the signature of this URL is not valid for this %s; use the URL unchanged, with its own method", method)
	}
	if now.After(f.Expires) {
		return nil, fault.Say(fault.Denied, "this URL expired at %s; ask for the job again to get a fresh one", f.Expires.UTC().Format(time.RFC3339))
	}
	return &f, nil
}

func (k Key) signFile(f File) []byte {
	return k.sign("file", f.Method, f.Key, strconv.FormatInt(f.Expires.Unix(), 10), strconv.FormatInt(f.Limit, 10), f.ContentType, f.Name, strconv.FormatBool(f.Here))
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// URL returns the whole signed URL of a file's permission below the server's base URL.
func (k Key) URL(base string, f File) string {
	segments := strings.Split(f.Key, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.TrimSuffix(base, "/") + "/v1/blobs/" + strings.Join(segments, "/") + "?" + k.Query(f)
}

// Folders returns what the keys of all files begin with. What follows in a key, up to its next slash, is the job that the
// file belongs to.
func Folders() []string { return []string{inputs, artifacts} }

const (
	inputs    = "inputs/"
	artifacts = "artifacts/"
)

// InputKey returns the key by which an input of a job is uploaded. Each upload is kept under a [NewUploadKey] of its own.
func InputKey(job, name string) string { return InputPrefix(job) + name }

// InputPrefix returns what the keys of all uploads of a job's inputs begin with.
func InputPrefix(job string) string { return inputs + job + "/" }

// NewUploadKey returns a key under which nothing is kept yet, for one upload of an input of a job. So an upload that
// turns out to come too late has changed nothing.
func NewUploadKey(job string) string { return InputPrefix(job) + rand.Text() }

// ArtifactKey returns the key under which an artifact of an attempt is kept. It names the attempt, so that one attempt
// can never touch what another has published.
func ArtifactKey(job, attempt, name string) string {
	return ArtifactPrefix(job) + attempt + "/" + name
}

// ArtifactPrefix returns what the keys of all artifacts of a job begin with.
func ArtifactPrefix(job string) string { return artifacts + job + "/" }
