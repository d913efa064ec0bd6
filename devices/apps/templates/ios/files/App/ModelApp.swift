import ModelUI
import SwiftUI

@main
struct ModelApp: App {
    var body: some Scene {
        WindowGroup { RootView() }
    }
}
