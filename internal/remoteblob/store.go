// Package remoteblob is what the stores have in common that keep objects on other computers: all that is not the service's own.
//
// Such a [Store] must know an object's size and checksum before it sends the first byte, because both are kept with the
// object and a broken upload must leave nothing. So what is to be stored is gathered first, in a [Spool], and sent from
// there, again if need be. And a peer that accepts a connection and then says nothing must not hold anybody up for ever,
// so a transfer is watched, and ends when it stands still.
package remoteblob

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// Service is what keeps objects on another computer. It knows them by names, which are keys with the store's prefix. Its
// errors are its library's, to be explained by [Settings].Explain, or have a kind. It is safe for concurrent use.
type Service interface {
	// Put stores what has been gathered, all at once or not at all, and returns when, if the service says so.
	Put(ctx context.Context, name, contentType string, spool *Spool) (time.Time, error)
	// Get returns length bytes of an object, which is not 0, or all that follow if it is negative, from offset. An offset
	// that is not before the object's end is fault.Invalid.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Stat returns what is known of an object.
	Stat(ctx context.Context, name string) (*blob.Info, error)
	// List yields the objects whose names begin with prefix, in the order of their names, with those as Keys. If it is
	// not deep it yields what the names have in common up to the next slash, which it ends in, instead of each that has one.
	List(ctx context.Context, prefix string, deep bool) iter.Seq2[*blob.Info, error]
	// Delete removes an object. It may say fault.NotFound.
	Delete(ctx context.Context, name string) error
	// Sign returns a request as [blob.Signer] says. The method and the options have been checked, and Life is set.
	Sign(ctx context.Context, method, name string, o *blob.SignOptions) (*blob.Signed, error)
}

// patience is how long a service may be silent, and a transfer stand still, unless somebody says otherwise.
const patience = time.Minute

// Settings are what a Store knows of its service.
type Settings struct {
	Package string // which its errors begin with
	Host    string // which they name
	// Prefix is what the names of all objects begin with. A missing slash at its end is added.
	Prefix string
	// Refuses says why the service cannot keep an object of this name; "" if it can.
	Refuses func(name string) (reason string)
	// Explain makes a kind and a sentence of what the service has answered; "" if an error is no answer.
	Explain func(err error) (fault.Kind, string)

	// Parts of large objects: how many bytes they have, the least that the service takes, and how many there may be.
	PartSize, MinPart int64
	MaxParts          int
	SpoolDir          string        // where large objects are gathered; "": the system's place for temporary files
	Patience          time.Duration // how long a transfer may stand still
}

// Store keeps objects at a service. It is safe for concurrent use, by several processes too.
type Store struct {
	service  Service
	settings Settings
}

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Signer = (*Store)(nil)
)

// New returns a store. It asks the service nothing. fault.Invalid if the prefix or the size of parts cannot be right.
func New(service Service, s Settings) (*Store, error) {
	if s.Prefix = strings.TrimSuffix(s.Prefix, "/"); s.Prefix != "" {
		if err := blob.CheckKey(s.Prefix); err != nil {
			return nil, fmt.Errorf("%s: the prefix: %w", s.Package, err)
		}
		s.Prefix += "/"
	}
	if s.PartSize < s.MinPart {
		return nil, fmt.Errorf("%s: %w: a part of %d bytes is too small; it has %d at least", s.Package, fault.Invalid, s.PartSize, s.MinPart)
	}
	s.Patience = cmp.Or(s.Patience, patience)
	return &Store{service, s}, nil
}

// Prefix returns what the names of all objects begin with; "" or ending in a slash.
func (s *Store) Prefix() string { return s.settings.Prefix }

// maxName is how many bytes a name may have. S3 says so, and Azure means characters.
const maxName = 1024

// name returns the name of the object with this key. It refuses what the service, or what is on the way to it, would take
// for another name.
func (s *Store) name(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	name := s.settings.Prefix + key
	reason := s.settings.Refuses(name)
	if len(name) > maxName {
		reason = fmt.Sprintf("with the prefix it is longer than %d bytes", maxName)
	}
	if reason != "" {
		return "", s.refused("keep", key, fault.Invalid, "%s", reason)
	}
	return name, nil
}

// Put stores an object. Errors of r come back wrapped.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	if o == nil {
		o = &blob.PutOptions{}
	}
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	spool, err := gather(ctx, r, o, &s.settings)
	if err != nil {
		return nil, fmt.Errorf("%s: put %q: %w", s.settings.Package, key, err)
	}
	defer spool.close()
	if parts := len(spool.Parts); parts > s.settings.MaxParts {
		return nil, s.refused("put", key, fault.TooLarge, "%d bytes are more than %d parts of %d", spool.Size, s.settings.MaxParts, s.settings.PartSize)
	}
	at, err := s.service.Put(ctx, name, o.ContentType, spool)
	if err != nil {
		return nil, s.explain(ctx, "put", key, err)
	}
	if at.IsZero() {
		at = time.Now()
	}
	return &blob.Info{Key: key, Size: spool.Size, SHA256: spool.SHA256, ContentType: o.ContentType, StoredAt: whole(at)}, nil
}

// Get returns a part of an object. The reader goes on reading the object as it was when Get returned.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length == 0 { // for which there is no range
		return s.nothing(ctx, key, offset)
	}
	watched, watch := newWatch(ctx, s.settings.Patience)
	body, err := s.service.Get(watched, name, offset, length)
	if err == nil {
		return &answer{ctx, body, watch}, nil
	}
	err = s.explain(ctx, "get", key, watch.cause(err))
	watch.stop()
	if fault.Of(err) == fault.Invalid {
		return s.nothing(ctx, key, offset)
	}
	return nil, err
}

// nothing returns no bytes of an object, from within it or its end.
func (s *Store) nothing(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > info.Size {
		return nil, s.refused("get", key, fault.Invalid, "offset %d is not within the object", offset)
	}
	return io.NopCloser(strings.NewReader("")), nil
}

// Stat returns what is known of an object.
func (s *Store) Stat(ctx context.Context, key string) (*blob.Info, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	info, err := s.service.Stat(ctx, name)
	if err != nil {
		return nil, s.explain(ctx, "look at", key, err)
	}
	info.Key, info.StoredAt = key, whole(info.StoredAt)
	return info, nil
}

// whole returns a time in whole seconds, which is what all answers of a service tell.
func whole(at time.Time) time.Time { return at.UTC().Truncate(time.Second) }

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	if err = s.service.Delete(ctx, name); err != nil {
		err = s.explain(ctx, "delete", key, err)
	}
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}

// List yields the objects whose keys begin with prefix, in key order, with what the service's own listing tells of them.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		for info, err := range s.list(ctx, prefix, true) {
			if err == nil && blob.CheckKey(info.Key) != nil {
				continue // another program's, such as what it has for a folder
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

// Folders yields the folders below prefix.
func (s *Store) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			yield("", s.refused("list the folders of", prefix, fault.Invalid, "it does not end in a slash"))
			return
		}
		for info, err := range s.list(ctx, prefix, false) {
			if err != nil {
				yield("", err)
				return
			}
			folder, isFolder := strings.CutSuffix(strings.TrimPrefix(info.Key, prefix), "/")
			if isFolder && folder != "" && !yield(folder, nil) {
				return
			}
		}
	}
}

// list yields what the service lists below a prefix of keys, until there is an error.
func (s *Store) list(ctx context.Context, prefix string, deep bool) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		names := s.settings.Prefix + prefix
		if len(names) > maxName || strings.HasPrefix(prefix, "/") || strings.ContainsRune(prefix, 0) {
			return // no key begins like that
		}
		for !utf8.ValidString(names) { // a service takes whole characters only
			names = names[:len(names)-1]
		}
		for info, err := range s.service.List(ctx, names, deep) {
			if err != nil {
				yield(nil, s.explain(ctx, "list", prefix, err))
				return
			}
			info.Key, info.StoredAt = strings.TrimPrefix(info.Key, s.settings.Prefix), whole(info.StoredAt)
			if strings.HasPrefix(info.Key, prefix) && !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// Sign returns a request that its holder may make of the service itself.
func (s *Store) Sign(ctx context.Context, method, key string, o *blob.SignOptions) (*blob.Signed, error) {
	checked := blob.SignOptions{}
	if o != nil {
		checked = *o
	}
	checked.Life = cmp.Or(checked.Life, time.Hour)
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	switch life := checked.Life; {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case method != http.MethodGet && method != http.MethodPut:
		return nil, s.refused("sign", key, fault.Unsupported, "the method %.20q; only GET and PUT can be signed", method)
	case life < blob.MinLife || life > blob.MaxLife || life%time.Second != 0:
		return nil, s.refused("sign", key, fault.Invalid, "a life of %v is not one of whole seconds from %v to %v", life, blob.MinLife, blob.MaxLife)
	case checked.Size < 0 || checked.SHA256 != "" && SHA256(checked.SHA256) == "":
		return nil, s.refused("sign", key, fault.Invalid, "the size is negative or the SHA-256 is none")
	}
	signed, err := s.service.Sign(ctx, method, name, &checked)
	if err != nil {
		return nil, s.explain(ctx, "sign", key, err)
	}
	signed.Method = method
	return signed, nil
}

// SHA256 returns what is the hexadecimal form of such a sum, and "" for any other text that is kept with an object.
func SHA256(text string) string {
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != 32 {
		return ""
	}
	return text
}

// explain makes the error of a request: what was tried, a kind, and what to do.
func (s *Store) explain(ctx context.Context, doing, key string, err error) error {
	kind, story := s.settings.Explain(err)
	_, classified := errors.AsType[fault.Kind](err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %s %q: %w", s.settings.Package, doing, key, ctx.Err())
	case kind != "":
		return s.refused(doing, key, kind, "%s", story)
	case classified: // here, such as by a watch
		return fmt.Errorf("%s: %s %q: %w", s.settings.Package, doing, key, err)
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL has the name, and may have a signature
	}
	return s.refused(doing, key, fault.Unavailable, "%s did not answer: %v", s.settings.Host, err)
}

func (s *Store) refused(doing, key string, kind fault.Kind, format string, values ...any) error {
	return fmt.Errorf("%s: %s %.100q: %w: %s", s.settings.Package, doing, key, kind, fmt.Sprintf(format, values...))
}
