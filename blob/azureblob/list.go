package azureblob

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
)

// pageSize is how many objects the service is asked for at a time.
const pageSize = 1000

// List yields the objects whose keys begin with prefix, in key order.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		full, ok := s.listed(prefix)
		if !ok {
			return
		}
		most := int32(pageSize)
		pages := s.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
			Prefix: &full, MaxResults: &most, Include: container.ListBlobsInclude{Metadata: true},
		})
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(nil, s.explain(ctx, "list", prefix, err))
				return
			}
			if page.Segment == nil {
				continue
			}
			for _, item := range page.Segment.BlobItems {
				key := strings.TrimPrefix(value(item.Name), s.prefix)
				if blob.CheckKey(key) != nil || !strings.HasPrefix(key, prefix) || item.Properties == nil {
					continue // another program's, or one of which the prefix is not whole characters
				}
				p := item.Properties
				if !yield(infoOf(key, p.ContentLength, p.ContentType, p.LastModified, item.Metadata), nil) {
					return
				}
			}
		}
	}
}

// Folders yields the folders below prefix.
func (s *Store) Folders(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if prefix != "" && !strings.HasSuffix(prefix, "/") {
			yield("", fmt.Errorf("azureblob: folders of %.100q: %w: it does not end in a slash", prefix, fault.Invalid))
			return
		}
		full, ok := s.listed(prefix)
		if !ok {
			return
		}
		most := int32(pageSize)
		pages := s.client.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &full, MaxResults: &most})
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield("", s.explain(ctx, "list the folders of", prefix, err))
				return
			}
			if page.Segment == nil {
				continue
			}
			for _, item := range page.Segment.BlobPrefixes {
				folder := strings.TrimSuffix(strings.TrimPrefix(value(item.Name), full), "/")
				if folder != "" && !yield(folder, nil) {
					return
				}
			}
		}
	}
}

// listed returns the prefix to ask the service for, which takes whole characters only, and whether any key begins with it.
func (s *Store) listed(prefix string) (full string, ok bool) {
	full = s.prefix + prefix
	for full != "" && !utf8.ValidString(full) {
		full = full[:len(full)-1]
	}
	return full, len(full) <= maxName && !strings.HasPrefix(prefix, "/") && !strings.ContainsRune(prefix, 0)
}
