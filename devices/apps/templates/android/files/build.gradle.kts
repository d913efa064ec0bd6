// Kotlin is compiled by the Android Gradle plugin itself (since 9.0): no plugin of Kotlin's own.
plugins {
    alias(libs.plugins.android.application) apply false
}
