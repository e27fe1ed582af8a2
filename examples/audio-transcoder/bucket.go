package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dayfly-run/dayfly/blob"
	"github.com/dayfly-run/dayfly/blob/s3blob"
	"github.com/dayfly-run/dayfly/fault"
)

// objects is what the service needs of object storage. Sources and results go between storage and whoever has a URL;
// the service itself never reads or writes one. Safe for concurrent use; a storage that does not answer is
// fault.Unavailable.
type objects interface {
	blob.Signer
	// Stat returns how long an object is; fault.NotFound.
	Stat(ctx context.Context, key string) (*blob.Info, error)
	// Delete removes an object. That there is none is no error.
	Delete(ctx context.Context, key string) error
}

// urlLife is how long a URL is good for.
const urlLife = 24 * time.Hour

// storageTimeout is how long one call of the storage may take. With patience it stays below the ten seconds that known
// clients wait for an answer.
const storageTimeout = 4 * time.Second

// bucket is a bucket of an S3 service that is not waited for. Its errors have a sentence for clients.
type bucket struct{ *s3blob.Store }

// openBucket makes no request: URLs are signed here, with a region that is given.
func openBucket(endpoint, region, name, accessKey, secretKey string) (*bucket, error) {
	store, err := s3blob.Open(name, &s3blob.Options{Endpoint: endpoint, Region: region, AccessKey: accessKey, SecretKey: secretKey})
	if err != nil {
		return nil, fmt.Errorf("S3_ENDPOINT_URL or S3_BUCKET_NAME: %w", err)
	}
	return &bucket{store}, nil
}

// check returns why the bucket cannot be used.
func (b *bucket) check(ctx context.Context) error {
	_, err := b.Stat(ctx, "is/anybody/there")
	if errors.Is(err, fault.NotFound) { // which only a bucket can say
		return nil
	}
	return err
}

// Stat implements objects.
func (b *bucket) Stat(ctx context.Context, key string) (*blob.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	info, err := b.Store.Stat(ctx, key)
	return info, notNow(err)
}

// Delete implements objects.
func (b *bucket) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	return notNow(b.Store.Delete(ctx, key))
}

// notNow gives an error of the storage its sentence. What is not known to be permanent may pass.
func notNow(err error) error {
	if err == nil || errors.Is(err, fault.NotFound) {
		return err
	}
	return fmt.Errorf("%w: %w", fault.Say(fault.Unavailable, "The object storage does not answer; try again later."), err)
}
