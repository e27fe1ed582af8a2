package azureblob

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	azure "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// metaSHA256 is the name of the metadata that holds an object's checksum.
const metaSHA256 = "sha256"

// Put stores an object, in one request or in blocks. Those are to be seen when all have come and the service is given their
// list. Their names are this upload's own, so that another of the same object can be under way.
func (s *service) Put(ctx context.Context, name, contentType string, spool *remoteblob.Spool) (at time.Time, err error) {
	to := s.client.NewBlockBlobClient(name)
	metadata, headers := map[string]*string{metaSHA256: &spool.SHA256}, &azure.HTTPHeaders{}
	if contentType != "" {
		headers.BlobContentType = &contentType
	}
	upload, ids := rand.Text(), make([]string, len(spool.Parts))
	err = spool.Send(ctx, func(ctx context.Context, p *remoteblob.Part) error {
		sum, err := sumOf(p)
		if err != nil {
			return fmt.Errorf("reading what to store: %w", err)
		}
		body := streaming.NopCloser(p)
		if len(ids) == 1 {
			answer, err := to.Upload(ctx, body, &blockblob.UploadOptions{Metadata: metadata, HTTPHeaders: headers, TransactionalValidation: sum})
			at = value(answer.LastModified)
			return err
		}
		ids[p.Number] = base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s-%08d", upload, p.Number))
		_, err = to.StageBlock(ctx, ids[p.Number], body, &blockblob.StageBlockOptions{TransactionalValidation: sum})
		return err
	})
	if err != nil || len(ids) == 1 {
		return at, err
	}
	answer, err := to.CommitBlockList(ctx, ids, &blockblob.CommitBlockListOptions{Metadata: metadata, HTTPHeaders: headers})
	return value(answer.LastModified), err
}

// sumOf returns the checksum by which the service checks a request's body. It is against accidents only.
func sumOf(body io.ReadSeeker) (azure.TransferValidationType, error) {
	hash := md5.New()
	if _, err := io.Copy(hash, body); err != nil {
		return nil, err
	}
	_, err := body.Seek(0, io.SeekStart)
	return azure.TransferValidationTypeMD5(hash.Sum(nil)), err
}

// Get returns a part of an object.
func (s *service) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	var o azure.DownloadStreamOptions
	if o.Range.Offset = offset; length > 0 {
		o.Range.Count = min(length, 1<<62-min(offset, 1<<62))
	}
	answer, err := s.client.NewBlobClient(name).DownloadStream(ctx, &o)
	return answer.Body, err
}

// Stat returns what is known of an object.
func (s *service) Stat(ctx context.Context, name string) (*blob.Info, error) {
	known, err := s.client.NewBlobClient(name).GetProperties(ctx, nil)
	if err != nil {
		return nil, err
	}
	return infoOf(name, known.ContentLength, known.ContentType, known.LastModified, known.Metadata), nil
}

// infoOf makes an Info of what the service says, of which it may leave out anything.
func infoOf(name string, size *int64, contentType *string, at *time.Time, metadata map[string]*string) *blob.Info {
	info := &blob.Info{Key: name, Size: value(size), ContentType: value(contentType), StoredAt: value(at)}
	for field, text := range metadata {
		if strings.EqualFold(field, metaSHA256) {
			info.SHA256 = remoteblob.SHA256(value(text))
		}
	}
	return info
}

func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// Delete removes an object.
func (s *service) Delete(ctx context.Context, name string) error {
	_, err := s.client.NewBlobClient(name).Delete(ctx, nil)
	return err
}

// pageSize is how many objects the service is asked for at a time.
const pageSize = 1000

// List yields objects, with their metadata, or folders.
func (s *service) List(ctx context.Context, prefix string, deep bool) iter.Seq2[*blob.Info, error] {
	most := int32(pageSize)
	if !deep {
		return s.folders(ctx, &container.ListBlobsHierarchyOptions{Prefix: &prefix, MaxResults: &most})
	}
	return func(yield func(*blob.Info, error) bool) {
		pages := s.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{
			Prefix: &prefix, MaxResults: &most, Include: container.ListBlobsInclude{Metadata: true},
		})
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range value(page.Segment).BlobItems {
				p := value(item.Properties)
				if !yield(infoOf(value(item.Name), p.ContentLength, p.ContentType, p.LastModified, item.Metadata), nil) {
					return
				}
			}
		}
	}
}

func (s *service) folders(ctx context.Context, o *container.ListBlobsHierarchyOptions) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		pages := s.client.NewListBlobsHierarchyPager("/", o)
		for pages.More() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, item := range value(page.Segment).BlobPrefixes {
				if !yield(&blob.Info{Key: value(item.Name)}, nil) {
					return
				}
			}
		}
	}
}
