import SwiftUI

/// The app's two screens over one model.
public struct RootView: View {
    @StateObject private var model = LocalModel()

    public init() {}

    public var body: some View {
        TabView {
            PromptView(model: model).tabItem { Label("Prompt", systemImage: "text.bubble") }
            BenchView(model: model).tabItem { Label("Measure", systemImage: "speedometer") }
        }
        .task { await model.prepare() }
    }
}
