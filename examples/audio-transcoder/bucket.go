package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/dayfly-run/dayfly/fault"
)

// objects is what the service needs of object storage. Sources and results go between storage and whoever has a URL;
// the service itself never reads or writes one. Safe for concurrent use; a storage that does not answer is
// fault.Unavailable.
type objects interface {
	// SignPut returns a URL to upload an object by, with exactly these headers.
	SignPut(ctx context.Context, key string, headers http.Header) (string, error)
	// SignGet returns a URL to download an object by.
	SignGet(ctx context.Context, key string) (string, error)
	// Size returns how long an object is, in bytes; fault.NotFound.
	Size(ctx context.Context, key string) (int64, error)
	// Remove removes an object. That there is none is no error.
	Remove(ctx context.Context, key string) error
}

// urlLife is how long a URL is good for.
const urlLife = 24 * time.Hour

// storageTimeout is how long one call of the storage may take. With patience it stays below the ten seconds that known
// clients wait for an answer.
const storageTimeout = 4 * time.Second

// bucket is a bucket of an S3 service.
type bucket struct {
	client *minio.Client
	name   string
}

// openBucket makes no request: URLs are signed here, with a region that is given.
func openBucket(endpoint, region, name, accessKey, secretKey string) (*bucket, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || (u.Path != "" && u.Path != "/") {
		return nil, fault.Say(fault.Invalid, "S3_ENDPOINT_URL must look like https://storage.example.org, without a path")
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: credentials.NewStaticV4(accessKey, secretKey, ""), Secure: u.Scheme == "https", Region: region, MaxRetries: 2,
	})
	if err != nil {
		return nil, fmt.Errorf("S3_ENDPOINT_URL: %w: %w", fault.Invalid, err)
	}
	return &bucket{client, name}, nil
}

// check returns fault.NotFound if there is no such bucket.
func (b *bucket) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	there, err := b.client.BucketExists(ctx, b.name)
	switch {
	case err != nil:
		return storageError(err)
	case !there:
		return fault.Say(fault.NotFound, "there is no bucket %q; make it, or correct S3_BUCKET_NAME", b.name)
	}
	return nil
}

// SignPut implements objects.
func (b *bucket) SignPut(ctx context.Context, key string, headers http.Header) (string, error) {
	u, err := b.client.PresignHeader(ctx, http.MethodPut, b.name, key, urlLife, nil, headers)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return u.String(), nil
}

// SignGet implements objects.
func (b *bucket) SignGet(ctx context.Context, key string) (string, error) {
	u, err := b.client.PresignedGetObject(ctx, b.name, key, urlLife, nil)
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return u.String(), nil
}

// Size implements objects.
func (b *bucket) Size(ctx context.Context, key string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	info, err := b.client.StatObject(ctx, b.name, key, minio.StatObjectOptions{})
	if err != nil {
		return 0, storageError(err)
	}
	return info.Size, nil
}

// Remove implements objects.
func (b *bucket) Remove(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	if err := b.client.RemoveObject(ctx, b.name, key, minio.RemoveObjectOptions{}); err != nil {
		return storageError(err)
	}
	return nil
}

// storageError gives an error of the storage its kind. What is not known to be permanent may pass.
func storageError(err error) error {
	switch answer := minio.ToErrorResponse(err); answer.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", fault.NotFound, err)
	case http.StatusForbidden:
		return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "The object storage refuses this service; are its keys right?"), err)
	default:
		return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "The object storage does not answer; try again later."), err)
	}
}
