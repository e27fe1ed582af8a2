// Package app turns a configuration into a running server. It is the only package that knows every backend by name:
// a new one is its own folder and a few lines here.
package app
