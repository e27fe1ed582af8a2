package s3blob

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/minio/minio-go/v7"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// List yields the objects whose keys begin with prefix, in key order, without their checksums and content types. The
// service is asked for a thousand at a time.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		for object, err := range s.list(ctx, prefix, true) {
			if err != nil {
				yield(nil, err)
				return
			}
			info := &blob.Info{Key: strings.TrimPrefix(object.Key, s.prefix), Size: object.Size, StoredAt: object.LastModified.UTC().Truncate(time.Second)}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Folders yields the folders below prefix.
func (s *Store) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			yield("", fmt.Errorf("s3blob: folders of %.100q: %w: it does not end in a slash", prefix, fault.Invalid))
			return
		}
		for object, err := range s.list(ctx, prefix, false) {
			if err != nil {
				yield("", err)
				return
			}
			folder, isFolder := strings.CutSuffix(strings.TrimPrefix(object.Key, s.prefix+prefix), "/")
			if isFolder && folder != "" && !yield(folder, nil) {
				return
			}
		}
	}
}

// list yields what the service lists. Names that are no keys, such as those of folders that other programs have made, are
// left out of a recursive listing.
func (s *Store) list(ctx context.Context, prefix string, recursive bool) iter.Seq2[*minio.ObjectInfo, error] {
	return func(yield func(*minio.ObjectInfo, error) bool) {
		if len(s.prefix)+len(prefix) > maxName || strings.HasPrefix(prefix, "/") || strings.ContainsRune(prefix, 0) {
			return // no key begins like that
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
			return
		}
		// The service takes whole characters only.
		whole := prefix
		for whole != "" && !utf8.ValidString(whole) {
			whole = whole[:len(whole)-1]
		}
		noOwner := false
		for object := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + whole, Recursive: recursive, FetchOwner: &noOwner}) {
			if object.Err != nil {
				yield(nil, s.explain(ctx, "list", prefix, object.Err))
				return
			}
			key := strings.TrimPrefix(object.Key, s.prefix)
			if recursive && blob.CheckKey(key) != nil || !strings.HasPrefix(key, prefix) {
				continue
			}
			if !yield(&object, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(nil, err)
		}
	}
}
