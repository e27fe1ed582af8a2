// Package s3blob keeps objects in a bucket of an S3-compatible service: AWS, Cloudflare R2, MinIO, and others.
//
// It asks for little, so that little can be missing: plain PUT, GET, HEAD, DELETE, ListObjectsV2 and, for large objects,
// multipart uploads. The checksum of every request's body is signed with the request, in the way that all such services
// check since version 4 of the signature; the newer checksum headers, which some of them refuse, are used only in signed
// requests that name a checksum. An object's SHA-256 is kept in its metadata, as x-amz-meta-sha256.
//
// What is stored is gathered first, in memory or in a temporary file, because its checksum is sent before it.
//
// A lifecycle rule of the bucket should remove incomplete multipart uploads after some days: a process that is killed
// while it uploads a large object leaves one, which is not to be seen as an object and is paid for.
package s3blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/fault"
	"github.com/dayfly-run/dayfly/internal/remoteblob"
)

// Options are the details of a Store. nil means all defaults: a bucket of AWS, with the credentials that are found.
type Options struct {
	// Prefix is what the names of all objects begin with, such as "dayfly/"; a missing slash at its end is added.
	Prefix string
	// Endpoint is the URL of the service, such as https://ACCOUNT.r2.cloudflarestorage.com or http://127.0.0.1:9000.
	// Default: AWS.
	Endpoint string
	// PublicEndpoint is the URL by which those reach the service who hold a signed request. Default: Endpoint.
	PublicEndpoint string
	// Region is the bucket's. Default: AWS is asked for it, and others are told us-east-1.
	Region string
	// AccessKey, SecretKey and SessionToken are the credentials. Default: what the environment (AWS_ACCESS_KEY_ID and so
	// on), the file ~/.aws/credentials or the role of the machine says, renewed when they expire.
	AccessKey, SecretKey, SessionToken string
	// PathStyle names the bucket in the path of a URL instead of its host. Services at an IP address need it and get it.
	PathStyle bool
	// PartSize is how many bytes each part of a large object has; smaller objects are sent whole. An object has at most
	// 10,000 parts. Default: 32 MiB; at least 5 MiB.
	PartSize int64
	// SpoolDir is where objects of more than 1 MiB are gathered before they are sent. Default: the system's place for
	// temporary files.
	SpoolDir string
}

// The least and the default size of a part, and how many an object may have.
const (
	minPart     = 5 << 20
	defaultPart = 32 << 20
	maxParts    = 10_000
)

// awsEndpoint is where AWS answers for all its regions.
const awsEndpoint = "https://s3.amazonaws.com"

// Store keeps objects in a bucket. It is safe for concurrent use, by several processes too.
type Store struct {
	bucket, prefix string
	core           minio.Core
	signer         *minio.Client // knows the service by its public name
	host           string        // of the service, to tell
	options        Options
	patience       time.Duration
}

var (
	_ blob.Store  = (*Store)(nil)
	_ blob.Signer = (*Store)(nil)
)

// Open returns the Store in the bucket, which must exist. It asks the service nothing: a bucket that is not there is
// noticed by the first use. fault.Invalid if the bucket or the options cannot be right.
func Open(bucket string, o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Store{bucket: bucket, prefix: o.Prefix, options: *o, patience: remoteblob.Patience}
	if s.prefix != "" && !strings.HasSuffix(s.prefix, "/") {
		s.prefix += "/"
	}
	if s.prefix != "" {
		if err := blob.CheckKey(strings.TrimSuffix(s.prefix, "/")); err != nil {
			return nil, fmt.Errorf("s3blob: the prefix: %w", err)
		}
	}
	if s.options.PartSize == 0 {
		s.options.PartSize = defaultPart
	}
	if s.options.PartSize < minPart {
		return nil, fmt.Errorf("s3blob: %w: a part of %d bytes is too small; S3 takes none below %d", fault.Invalid, o.PartSize, minPart)
	}
	if bucket == "" || strings.ContainsAny(bucket, "/?#") {
		return nil, fmt.Errorf("s3blob: %w: %q is not the name of a bucket", fault.Invalid, bucket)
	}
	client, err := s.connect(o.Endpoint)
	if err != nil {
		return nil, err
	}
	s.core, s.signer = minio.Core{Client: client}, client
	s.host = client.EndpointURL().Host
	if o.PublicEndpoint != "" {
		s.signer, err = s.connect(o.PublicEndpoint)
	}
	return s, err
}

// connect returns a client for the service at an endpoint. Nothing is sent.
func (s *Store) connect(endpoint string) (*minio.Client, error) {
	if endpoint == "" {
		endpoint = awsEndpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Path != "" && u.Path != "/" || u.User != nil {
		return nil, fmt.Errorf("s3blob: %w: %.200q is not the URL of a service, such as https://s3.example.com", fault.Invalid, redact(endpoint))
	}
	region := s.options.Region
	if region == "" && !strings.HasSuffix(u.Hostname(), ".amazonaws.com") {
		region = "us-east-1" // what services without regions call theirs; AWS is asked
	}
	lookup := minio.BucketLookupAuto
	if s.options.PathStyle || net.ParseIP(u.Hostname()) != nil {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: s.credentials(), Secure: u.Scheme == "https", Region: region, BucketLookup: lookup,
		MaxRetries: 4, Transport: remoteblob.Transport(),
	})
	if err != nil {
		return nil, fmt.Errorf("s3blob: %w: %w", fault.Invalid, err)
	}
	return client, nil
}

// redact removes a password that somebody wrote into a URL.
func redact(endpoint string) string {
	if _, host, found := strings.Cut(endpoint, "@"); found {
		return "[redacted]@" + host
	}
	return endpoint
}

func (s *Store) credentials() *credentials.Credentials {
	if s.options.AccessKey != "" {
		return credentials.NewStaticV4(s.options.AccessKey, s.options.SecretKey, s.options.SessionToken)
	}
	return credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.FileAWSCredentials{},
		&credentials.IAM{Client: &http.Client{Transport: remoteblob.Transport(), Timeout: 10 * time.Second}},
	})
}

// Close lets go of the connections.
func (s *Store) Close() error { return nil }

// String tells where objects are kept, without credentials.
func (s *Store) String() string { return "s3://" + s.bucket + "/" + s.prefix + " at " + s.host }

// maxName is how many bytes the name of an object may have in S3.
const maxName = 1024

// name returns the name in the bucket of the object with this key.
func (s *Store) name(key string) (string, error) {
	if err := blob.CheckKey(key); err != nil {
		return "", err
	}
	name := s.prefix + key
	if len(name) > maxName {
		return "", fmt.Errorf("s3blob: key %.100q: %w: with the prefix it is longer than the %d bytes that S3 allows", key, fault.Invalid, maxName)
	}
	if strings.ContainsFunc(name, unicode.IsControl) {
		// Some services accept it, and are then unable to list it.
		return "", fmt.Errorf("s3blob: key %.100q: %w: it holds a control character", key, fault.Invalid)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "." || part == ".." {
			return "", fmt.Errorf("s3blob: key %.100q: %w: the part %q is taken for a direction on the way", key, fault.Invalid, part)
		}
	}
	return name, nil
}

// Get returns a part of an object. The reader goes on reading the object as it was when Get returned.
func (s *Store) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		return nil, beyond(key, offset)
	}
	if length == 0 { // for which there is no range
		return s.nothing(ctx, key, offset)
	}
	var o minio.GetObjectOptions
	if offset > 0 || length > 0 {
		span := "bytes=" + strconv.FormatInt(offset, 10) + "-"
		if length > 0 {
			span += strconv.FormatInt(offset+min(length, 1<<62-offset)-1, 10)
		}
		o.Set("Range", span)
	}
	watched, watch := remoteblob.NewWatch(ctx, s.patience)
	body, _, header, err := s.core.GetObject(watched, s.bucket, name, o)
	switch {
	case err == nil && len(o.Header()) > 0 && header.Get("Content-Range") == "":
		watch.Stop()
		body.Close()
		return nil, fmt.Errorf("s3blob: get %q: %w: %s has answered with the whole object instead of the part", key, fault.Unavailable, s.host)
	case err == nil:
		return remoteblob.Body(ctx, body, watch), nil
	}
	err = watch.Cause(err)
	watch.Stop()
	if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return s.nothing(ctx, key, offset)
	}
	return nil, s.explain(ctx, "get", key, err)
}

// nothing returns no bytes of an object, from within it or its end.
func (s *Store) nothing(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	info, err := s.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if offset > info.Size {
		return nil, beyond(key, offset)
	}
	return io.NopCloser(strings.NewReader("")), nil
}

func beyond(key string, offset int64) error {
	return fmt.Errorf("s3blob: get %q: %w: offset %d is not within the object", key, fault.Invalid, offset)
}

// Stat returns what is known of an object.
func (s *Store) Stat(ctx context.Context, key string) (*blob.Info, error) {
	name, err := s.name(key)
	if err != nil {
		return nil, err
	}
	info, err := s.core.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
	if err != nil {
		err = s.explain(ctx, "look at", key, err)
		if fault.Of(err) == fault.NotFound {
			return nil, s.orBucketGone(ctx, err)
		}
		return nil, err
	}
	known := &blob.Info{Key: key, Size: info.Size, ContentType: info.ContentType, StoredAt: info.LastModified.UTC().Truncate(time.Second)}
	for field, value := range info.UserMetadata {
		if strings.EqualFold(field, metaSHA256) && isSHA256(value) {
			known.SHA256 = value
		}
	}
	return known, nil
}

// orBucketGone tells an object that is not there from a bucket that is not there, or is closed to us, which the answer to
// HEAD, having no body, does not. The first is final and the others pass.
func (s *Store) orBucketGone(ctx context.Context, notFound error) error {
	for object := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, MaxKeys: 1}) {
		if object.Err != nil {
			return s.explain(ctx, "look into", s.bucket, object.Err)
		}
		break
	}
	return notFound
}

func (s *Store) bucketGone() error {
	return fmt.Errorf("s3blob: %w: there is no bucket %s at %s; make it, or correct its name", fault.Unavailable, s.bucket, s.host)
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, key string) error {
	name, err := s.name(key)
	if err != nil {
		return err
	}
	err = s.core.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{})
	if err != nil {
		err = s.explain(ctx, "delete", key, err)
		if fault.Of(err) != fault.NotFound {
			return err
		}
	}
	return nil
}

// explain makes the error of a request: what was tried, a kind, and what to do.
func (s *Store) explain(ctx context.Context, doing, key string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("s3blob: %s %q: %w", doing, key, ctx.Err())
	}
	said := func(kind fault.Kind, story string) error {
		return fmt.Errorf("s3blob: %s %q: %w: %s", doing, key, kind, story)
	}
	answer, ok := errors.AsType[minio.ErrorResponse](err)
	if !ok {
		return said(fault.Unavailable, fmt.Sprintf("%s did not answer: %v", s.host, withoutURL(err)))
	}
	message := fmt.Sprintf("%s says %s: %.200q", s.host, answer.Code, answer.Message)
	switch answer.Code {
	case "NoSuchKey":
		return said(fault.NotFound, "there is no such object")
	case "NoSuchBucket":
		return s.bucketGone()
	case "RequestTimeTooSkewed":
		return said(fault.Unavailable, "the clocks of this computer and of "+s.host+" differ by more than the service allows; set the clock")
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "InvalidTokenId", "XAdminUserNotFound":
		return said(fault.Unavailable, message+"; the credentials are wrong or have been replaced: give new ones")
	case "AccessDenied", "AllAccessDisabled":
		return said(fault.Unavailable, message+"; the credentials must permit reading, writing, listing and deleting in bucket "+s.bucket)
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "InvalidRegion":
		return said(fault.Unavailable, message+"; the region is not the bucket's")
	case "EntityTooLarge":
		return said(fault.TooLarge, message)
	case "XMinioStorageFull", "QuotaExceeded", "InsufficientStorage":
		return said(fault.StoreFull, message)
	case "ObjectParentIsFile", "ExistingObjectIsDirectory", "XMinioParentIsObject", "XMinioObjectExistsAsDirectory":
		return said(fault.Invalid, message+"; this service cannot keep an object where others have a folder")
	case "InvalidArgument", "InvalidObjectName", "KeyTooLongError", "XMinioInvalidObjectName":
		if answer.StatusCode == http.StatusBadRequest {
			return said(fault.Invalid, message)
		}
	}
	return said(fault.Unavailable, message)
}

// withoutURL strips the URL from an error of net/http.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// Prefix returns what the names of all objects begin with; "" or ending in a slash.
func (s *Store) Prefix() string { return s.prefix }
