import Edgestill
import SwiftUI

/// A prompt, its answer as it comes, and a button that ends it; a conversation, where the model knows them.
struct PromptView: View {
    @ObservedObject var model: LocalModel
    @State private var prompt = ""
    @State private var output = ""
    @State private var failure = ""
    @State private var messages: [Message] = []
    @State private var answering: Task<Void, Never>?

    var body: some View {
        NavigationStack {
            VStack(alignment: .leading, spacing: 12) {
                Text(failure.isEmpty ? model.status : failure).font(.footnote).foregroundStyle(.secondary)
                ScrollView {
                    Text(output).textSelection(.enabled).frame(maxWidth: .infinity, alignment: .leading)
                }
                .defaultScrollAnchor(.bottom)
                ScrollView(.horizontal) {
                    HStack {
                        ForEach(model.prompts, id: \.self) { example in
                            Button(String(example.prefix(60))) { prompt = example }.buttonStyle(.bordered)
                        }
                    }
                }
                HStack {
                    TextField("Prompt", text: $prompt, axis: .vertical).textFieldStyle(.roundedBorder).lineLimit(1...5)
                    if answering == nil {
                        Button("Send", action: ask).disabled(!model.ready || prompt.isEmpty)
                    } else {
                        Button("Stop") { answering?.cancel() }
                    }
                }
            }
            .padding()
            .navigationTitle(model.name)
            .toolbar { Button("New", action: forget) }
        }
    }

    private func ask() {
        if !model.chat { forget() }
        messages.append(Message(role: "user", content: prompt))
        output += model.chat ? "\n> \(prompt)\n\n" : prompt
        prompt = ""
        failure = ""
        answering = Task {
            var answer = ""
            do {
                for try await token in try await model.answer(messages) {
                    answer += token.text
                    output += token.text
                }
            } catch {
                failure = String(describing: error)
            }
            messages.append(Message(role: "assistant", content: answer))
            answering = nil
        }
    }

    private func forget() {
        answering?.cancel()
        messages = []
        output = ""
    }
}
