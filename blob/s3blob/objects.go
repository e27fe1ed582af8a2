package s3blob

import (
	"context"
	"io"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// metaSHA256 is the name of the metadata that holds an object's checksum.
const metaSHA256 = "Sha256"

// Put stores an object, in one request or in parts. The checksum is signed as that of the request's body, so the service
// refuses what was damaged on the way.
func (s *service) Put(ctx context.Context, name, contentType string, spool *remoteblob.Spool) (at time.Time, err error) {
	o := minio.PutObjectOptions{ContentType: contentType, UserMetadata: map[string]string{metaSHA256: spool.SHA256}, DisableContentSha256: true}
	if len(spool.Parts) > 1 {
		return s.putParts(ctx, name, spool, o)
	}
	err = spool.Send(ctx, func(ctx context.Context, p *remoteblob.Part) error {
		info, err := s.core.PutObject(ctx, s.bucket, name, p, p.Size, "", p.SHA256, o)
		at = info.LastModified
		return err
	})
	return at, err
}

// putParts stores a large object. It is to be seen when all parts have come and the service has joined them.
func (s *service) putParts(ctx context.Context, name string, spool *remoteblob.Spool, o minio.PutObjectOptions) (time.Time, error) {
	upload, err := s.core.NewMultipartUpload(ctx, s.bucket, name, o)
	if err != nil {
		return time.Time{}, err
	}
	parts := make([]minio.CompletePart, len(spool.Parts))
	err = spool.Send(ctx, func(ctx context.Context, p *remoteblob.Part) error {
		sent, err := s.core.PutObjectPart(ctx, s.bucket, name, upload, p.Number+1, p, p.Size, minio.PutObjectPartOptions{Sha256Hex: p.SHA256, DisableContentSha256: true})
		parts[p.Number] = minio.CompletePart{PartNumber: p.Number + 1, ETag: sent.ETag}
		return err
	})
	var info minio.UploadInfo
	if err == nil {
		info, err = s.core.CompleteMultipartUpload(ctx, s.bucket, name, upload, parts, minio.PutObjectOptions{})
	}
	if err != nil {
		s.abort(ctx, name, upload)
	}
	return info.LastModified, err
}

// abort lets the service forget the parts of an upload that has failed, also when the caller has gone. What it cannot
// remove now the bucket's lifecycle rule does.
func (s *service) abort(ctx context.Context, name, upload string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = s.core.AbortMultipartUpload(ctx, s.bucket, name, upload) // see above
}

// Get returns a part of an object.
func (s *service) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	var o minio.GetObjectOptions
	if offset > 0 || length > 0 {
		span := "bytes=" + strconv.FormatInt(offset, 10) + "-"
		if length > 0 {
			span += strconv.FormatInt(offset+min(length, 1<<62-offset)-1, 10)
		}
		o.Set("Range", span)
	}
	body, _, header, err := s.core.GetObject(ctx, s.bucket, name, o)
	if err != nil {
		return nil, err
	}
	if len(o.Header()) > 0 && header.Get("Content-Range") == "" {
		body.Close()
		return nil, fault.Say(fault.Unavailable, "%s has answered with the whole object instead of the part", s.host)
	}
	return body, nil
}

// Stat returns what is known of an object.
func (s *service) Stat(ctx context.Context, name string) (*blob.Info, error) {
	known, err := s.core.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		return nil, s.orBucketGone(ctx, name, err)
	}
	info := &blob.Info{Size: known.Size, ContentType: known.ContentType, StoredAt: known.LastModified}
	for field, text := range known.UserMetadata {
		if strings.EqualFold(field, metaSHA256) {
			info.SHA256 = remoteblob.SHA256(text)
		}
	}
	return info, nil
}

// orBucketGone tells an object that is not there from a bucket that is not there, or is closed to us, which the answer to
// HEAD, having no body, does not. The first is final and the others pass.
func (s *service) orBucketGone(ctx context.Context, name string, err error) error {
	if kind, _ := s.explain(err); kind != fault.NotFound {
		return err
	}
	for object := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: name, MaxKeys: 1}) {
		if object.Err != nil {
			return object.Err
		}
		break
	}
	return err
}

// Delete removes an object.
func (s *service) Delete(ctx context.Context, name string) error {
	return s.core.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
}

// List yields objects, without their checksums and content types, and folders if it is not deep. The service is asked for a
// thousand at a time.
func (s *service) List(ctx context.Context, prefix string, deep bool) iter.Seq2[*blob.Info, error] {
	return func(yield func(*blob.Info, error) bool) {
		noOwner := false
		for object := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: deep, FetchOwner: &noOwner}) {
			if !yield(&blob.Info{Key: object.Key, Size: object.Size, StoredAt: object.LastModified}, object.Err) {
				return
			}
		}
	}
}
