// Package object keeps the objects that stand beside pods: ConfigMaps,
// Secrets, PersistentVolumeClaims and Namespaces. It owns how a write becomes
// an object (create, apply, replace, patch), what an update may change, where
// objects lie in the store, and how they go.
//
// A Change is a pure function from the stored object to the next; package
// supervisor writes pods by the same ones. Every write is one commit.
//
// ConfigMaps and Secrets go at once. A claim goes when no pod uses it, a
// Namespace when nothing is left in it; until then they have a
// deletionTimestamp, and a goroutine each that waits. What the goroutine does
// next follows from the store alone, so that Recover goes on with what an
// earlier node began.
//
// It does not run pods, mount anything or tell pods of changes: who cares
// watches the store.
package object
