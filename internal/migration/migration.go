// Package migration brings SQLite databases from schema to schema.
package migration

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path"

	"github.com/pressly/goose/v3"
)

// Provider returns what brings db up to date: the files in a folder of files, one step each, in a transaction of its own.
// Their names begin with the number of the schema that they lead to. It neither reads nor changes the database yet, and
// serves one caller at a time, as db does if it has one connection.
//
// A file is SQL that is carried out whole. Goose, if it were given the files, would take each apart line by line, and
// for that clear several megabytes of memory a line, which takes longer than everything else that opening a store does.
func Provider(db *sql.DB, files fs.FS, folder string) (*goose.Provider, error) {
	entries, err := fs.ReadDir(files, folder)
	if err != nil {
		return nil, fmt.Errorf("migration: %w", err)
	}
	steps := make([]*goose.Migration, len(entries))
	for i, entry := range entries {
		text, err := fs.ReadFile(files, path.Join(folder, entry.Name()))
		if err != nil {
			return nil, fmt.Errorf("migration: %w", err)
		}
		version, err := goose.NumericComponent(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("migration: %w", err)
		}
		carryOut := func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, string(text))
			return err
		}
		steps[i] = goose.NewGoMigration(version, &goose.GoFunc{RunTx: carryOut}, nil)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, nil, goose.WithGoMigrations(steps...),
		goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("migration: %w", err)
	}
	return provider, nil
}
