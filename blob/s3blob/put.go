package s3blob

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// metaSHA256 is the name of the metadata that holds an object's checksum.
const metaSHA256 = "Sha256"

// parallel is how many parts of one object are sent at once.
const parallel = 4

// Put stores an object. Errors of r come back wrapped.
func (s *Store) Put(ctx context.Context, key string, r io.Reader, o *blob.PutOptions) (*blob.Info, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	spool, err := remoteblob.Gather(ctx, r, o, s.options.SpoolDir, s.options.PartSize)
	if err != nil {
		return nil, fmt.Errorf("s3blob: put %q: %w", key, err)
	}
	defer spool.Close()
	if len(spool.Parts) > maxParts {
		return nil, fmt.Errorf("s3blob: put %q: %w: %d bytes are more than %d parts of %d", key, fault.TooLarge, spool.Size, maxParts, s.options.PartSize)
	}
	options := minio.PutObjectOptions{UserMetadata: map[string]string{metaSHA256: spool.SHA256}, DisableContentSha256: true}
	if o != nil {
		options.ContentType = o.ContentType
	}
	stored, err := s.send(ctx, name, spool, options)
	if err != nil {
		return nil, s.explain(ctx, "put", key, err)
	}
	if stored.IsZero() {
		stored = time.Now()
	}
	return &blob.Info{Key: key, Size: spool.Size, SHA256: spool.SHA256, ContentType: options.ContentType, StoredAt: stored.UTC().Truncate(time.Second)}, nil
}

// send stores what has been gathered, in one request or in parts, and returns when, if the service says so.
func (s *Store) send(ctx context.Context, name string, spool *remoteblob.Spool, o minio.PutObjectOptions) (time.Time, error) {
	if len(spool.Parts) > 1 {
		return s.sendParts(ctx, name, spool, o)
	}
	ctx, watch := remoteblob.NewWatch(ctx, s.patience)
	defer watch.Stop()
	// The checksum is signed as that of the request's body, so the service refuses what was damaged on the way.
	info, err := s.core.PutObject(ctx, s.bucket, name, watch.Reader(spool.Section(0, spool.Size)), spool.Size, "", spool.SHA256, o)
	return info.LastModified, watch.Cause(err)
}

// sendParts stores a large object. It is to be seen when all parts have come and the service has joined them.
func (s *Store) sendParts(ctx context.Context, name string, spool *remoteblob.Spool, o minio.PutObjectOptions) (at time.Time, err error) {
	upload, err := s.core.NewMultipartUpload(ctx, s.bucket, name, o)
	if err != nil {
		return at, err
	}
	defer func() {
		if err != nil {
			s.abort(ctx, name, upload)
		}
	}()
	parts := make([]minio.CompletePart, len(spool.Parts))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, sum := range spool.Parts {
		group.Go(func() error {
			ctx, watch := remoteblob.NewWatch(groupCtx, s.patience)
			defer watch.Stop()
			offset := int64(i) * s.options.PartSize
			size := min(s.options.PartSize, spool.Size-offset)
			part, err := s.core.PutObjectPart(ctx, s.bucket, name, upload, i+1, watch.Reader(spool.Section(offset, size)), size,
				minio.PutObjectPartOptions{Sha256Hex: sum, DisableContentSha256: true})
			parts[i] = minio.CompletePart{PartNumber: i + 1, ETag: part.ETag}
			return watch.Cause(err)
		})
	}
	if err := group.Wait(); err != nil {
		return at, err
	}
	info, err := s.core.CompleteMultipartUpload(ctx, s.bucket, name, upload, parts, minio.PutObjectOptions{})
	return info.LastModified, err
}

// abort lets the service forget the parts of an upload that has failed, also when the caller has gone. What it cannot
// remove now the bucket's lifecycle rule does.
func (s *Store) abort(ctx context.Context, name, upload string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = s.core.AbortMultipartUpload(ctx, s.bucket, name, upload) // see above
}

func isSHA256(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == 32
}
